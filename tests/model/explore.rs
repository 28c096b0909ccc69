//! The explorer: breadth first through every state, then once more over the whole graph.
//!
//! The first pass looks for a state in which a property is broken; the path to it is the shortest.
//! The second pass answers three questions: can the goal still be reached from every state when
//! nothing breaks any more, does every run that cannot go on end in the goal, and is there a way to
//! run in circles? (The operator `eventually` of many checkers does not answer them rightly.)

use std::fmt;
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::pool::{Slots, hash};

/// A successor of a state.
pub struct Step<K, L> {
    /// Where it leads, or the property it breaks.
    pub to: Result<K, String>,
    /// It happens without a fault: the network stays up, and no user intervenes.
    pub free: bool,
    /// What happens.
    pub label: L,
}

/// A world that can be explored.
pub trait Model {
    /// A state.
    type Key: Copy + Eq + Hash;
    /// What leads from one state to another.
    type Label: Copy;

    /// The first state.
    fn start(&mut self) -> Self::Key;
    /// All that can happen now.
    fn steps(&mut self, key: Self::Key, out: &mut Vec<Step<Self::Key, Self::Label>>);
    /// The property that is broken in this state, if any.
    fn broken(&mut self, key: Self::Key) -> Option<String>;
    /// Whether this is how a run is meant to end.
    fn is_goal(&mut self, key: Self::Key) -> bool;
    /// A line of a trace.
    fn describe(&mut self, key: Self::Key, label: Self::Label) -> String;
    /// The state, for the end of a trace.
    fn show(&mut self, key: Self::Key) -> String;
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Every property holds in every state, and the goal can be reached from everywhere.
    Holds,
    /// A property is broken.
    Broken(String),
    /// Nothing can happen any more short of the goal.
    DeadEnd,
    /// Without further faults the goal cannot be reached any more.
    Lost {
        /// The number of such states.
        states: u64,
    },
    /// There were more states than allowed.
    TooMany,
}

/// Figures of a run.
pub struct Report {
    pub verdict: Verdict,
    pub states: u64,
    pub steps: u64,
    pub depth: u32,
    /// States in which nothing can happen any more without a fault.
    pub ends: u64,
    /// There is no way to run in circles without faults.
    pub acyclic: bool,
    pub took: Duration,
    /// The shortest way to what the verdict says.
    pub trace: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: {} states, {} steps, depth {}, {} ends, {}, {:.1} s",
            self.verdict,
            self.states,
            self.steps,
            self.depth,
            self.ends,
            if self.acyclic { "acyclic" } else { "with circles" },
            self.took.as_secs_f64()
        )
    }
}

/// The graph as it becomes known.
struct Graph<K> {
    keys: Vec<K>,
    slots: Slots,
    parents: Vec<u32>,
    /// Free steps only, by state in the order of `keys`.
    edges: Vec<u32>,
    /// Where the edges of a state begin; one more at the end.
    begins: Vec<u64>,
}

impl<K: Copy + Eq + Hash> Graph<K> {
    fn new(start: K) -> Graph<K> {
        let mut graph = Graph {
            keys: Vec::new(),
            slots: Slots::new(),
            parents: Vec::new(),
            edges: Vec::new(),
            begins: vec![0],
        };
        graph.put(start, 0);
        graph
    }

    fn put(&mut self, key: K, parent: u32) -> u32 {
        let keys = &self.keys;
        let found = self.slots.find_or_add(
            hash(&key),
            keys.len(),
            |at| keys[at as usize] == key,
            |at| hash(&keys[at as usize]),
        );
        found.unwrap_or_else(|| {
            self.keys.push(key);
            self.parents.push(parent);
            u32::try_from(self.keys.len() - 1).expect("bounded by the caller")
        })
    }

    fn edges_of(&self, at: usize) -> &[u32] {
        let range = |index: u64| usize::try_from(index).expect("edges are in memory");
        &self.edges[range(self.begins[at])..range(self.begins[at + 1])]
    }

    /// From which states the goal can be reached by free steps.
    fn hopeful(&self, goals: &[bool]) -> Vec<bool> {
        let mut hope = goals.to_vec();
        loop {
            let mut changed = false;
            // Steps lead mostly forward, so one pass backward does nearly all.
            for at in (0..self.keys.len()).rev() {
                if !hope[at] && self.edges_of(at).iter().any(|to| hope[*to as usize]) {
                    hope[at] = true;
                    changed = true;
                }
            }
            if !changed {
                return hope;
            }
        }
    }

    /// Whether free steps never lead back (Kahn).
    fn is_acyclic(&self) -> bool {
        let count = self.keys.len();
        let mut incoming = vec![0u32; count];
        self.edges.iter().for_each(|to| incoming[*to as usize] += 1);
        let mut ready: Vec<u32> = (0..)
            .zip(&incoming)
            .filter_map(|(at, incoming): (u32, _)| (*incoming == 0).then_some(at))
            .collect();
        let mut sorted = 0;
        while let Some(at) = ready.pop() {
            sorted += 1;
            for to in self.edges_of(at as usize) {
                incoming[*to as usize] -= 1;
                if incoming[*to as usize] == 0 {
                    ready.push(*to);
                }
            }
        }
        sorted == count
    }
}

impl Report {
    /// The report of a run that has just begun.
    fn new() -> Report {
        Report {
            verdict: Verdict::Holds,
            states: 0,
            steps: 0,
            depth: 0,
            ends: 0,
            acyclic: true,
            took: Duration::ZERO,
            trace: Vec::new(),
        }
    }
}

/// Explores everything, at most `states_max` states.
pub fn explore<M: Model>(model: &mut M, states_max: usize) -> Report {
    let begun = Instant::now();
    let mut graph = Graph::new(model.start());
    let mut report = Report::new();
    let mut goals: Vec<bool> = Vec::new();
    let mut dead_end = None;
    let mut level_end = 1;
    let mut at = 0;
    let mut steps = Vec::new();
    while at < graph.keys.len() {
        if at == level_end {
            level_end = graph.keys.len();
            report.depth += 1;
        }
        let key = graph.keys[at];
        let parent = u32::try_from(at).expect("bounded below");
        let mut broken = model.broken(key).map(|what| (what, None));
        steps.clear();
        if broken.is_none() {
            model.steps(key, &mut steps);
        }
        let edges_before = graph.edges.len();
        for step in &steps {
            match &step.to {
                Ok(to) if *to == key => (),
                Ok(to) => {
                    report.steps += 1;
                    let to = graph.put(*to, parent);
                    if step.free {
                        graph.edges.push(to);
                    }
                }
                Err(what) => {
                    broken = Some((what.clone(), Some(step.label)));
                    break;
                }
            }
        }
        graph.begins.push(graph.edges.len() as u64);
        let goal = broken.is_none() && model.is_goal(key);
        goals.push(goal);
        if graph.edges.len() == edges_before {
            report.ends += 1;
            if !goal && dead_end.is_none() {
                dead_end = Some(at);
            }
        }
        if let Some((what, last)) = broken {
            report.verdict = Verdict::Broken(what);
            report.trace = trace(model, &graph, at);
            report.trace.extend(last.map(|label| model.describe(key, label)));
            report.trace.push(model.show(key));
            break;
        }
        if graph.keys.len() > states_max {
            report.verdict = Verdict::TooMany;
            break;
        }
        at += 1;
    }
    report.states = graph.keys.len() as u64;
    if report.verdict == Verdict::Holds {
        judge(model, &graph, &goals, dead_end, &mut report);
    }
    report.took = begun.elapsed();
    report
}

/// The second pass.
fn judge<M: Model>(
    model: &mut M,
    graph: &Graph<M::Key>,
    goals: &[bool],
    dead_end: Option<usize>,
    report: &mut Report,
) {
    let hope = graph.hopeful(goals);
    let lost = hope.iter().filter(|hope| !**hope).count() as u64;
    report.acyclic = graph.is_acyclic();
    let at = match dead_end {
        Some(at) => {
            report.verdict = Verdict::DeadEnd;
            at
        }
        None if lost > 0 => {
            report.verdict = Verdict::Lost { states: lost };
            hope.iter().position(|hope| !*hope).expect("at least one is lost")
        }
        None => return,
    };
    report.trace = trace(model, graph, at);
    let end = model.show(graph.keys[at]);
    report.trace.push(end);
}

/// The way to a state, one line a step.
fn trace<M: Model>(model: &mut M, graph: &Graph<M::Key>, at: usize) -> Vec<String> {
    let mut path = vec![at];
    let mut last = at;
    while last != 0 {
        last = graph.parents[last] as usize;
        path.push(last);
    }
    path.reverse();
    let mut lines = Vec::new();
    let mut steps = Vec::new();
    for pair in path.windows(2) {
        let (from, to) = (graph.keys[pair[0]], graph.keys[pair[1]]);
        steps.clear();
        model.steps(from, &mut steps);
        let step = steps.iter().find(|step| step.to == Ok(to)).expect("it was there before");
        let (label, free) = (step.label, step.free);
        let line = model.describe(from, label);
        lines.push(if free { line } else { format!("{line}   <- not free") });
    }
    lines
}
