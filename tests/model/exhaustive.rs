//! The runs. Each goes through every state within its bounds; `property.rs` says what must hold.
//! The names in front are those of the notes the protocol was worked out on; K are runs that begin
//! with CONNECT, X with a process that dies and goes on, T with tickets and a second server, W with
//! a second server that is asked beside the first (make before break, R65-R67), U with urgent bytes
//! (R12, R13). Those marked `large` are run by scripts/verify, the others by CI too.

use crate::explore::{Verdict, explore};
use crate::plan::{CALM, Plan};
use crate::world::World;

/// A session that is established, as most runs begin.
const UP: Plan = Plan { established: true, ..CALM };
/// Small windows, near sides that read when they like.
const TIGHT: Plan =
    Plan { send_buffer: 2, receive_buffer: 2, ack_timer: true, ack_every: 2, lazy: true, ..UP };
/// Processes die and go on, with the same near sides.
const RESTARTS: Plan = Plan { cuts: [1, 1], ..TIGHT };
/// A replayable service and two servers.
const TICKETS: Plan = Plan { replayable: true, ack_timer: true, ..UP };
/// The same, and the broker goes to the second one while the first still works.
const BESIDE: Plan = Plan { moves: 1, beside: true, up: 1, down: 3, ..TICKETS };

/// More states than any run has; this many take about 12 GiB.
const STATES_MAX: usize = 100_000_000;

fn holds(plan: Plan) {
    let mut world = World::new(plan.clone());
    let report = explore(&mut world, STATES_MAX);
    println!("{}", row(&plan, &report));
    for line in &report.trace {
        println!("{line}");
    }
    assert_eq!(report.verdict, Verdict::Holds, "{}: {report}", plan.name);
    assert!(report.acyclic, "{}: runs in circles", plan.name);
}

/// A row of the table: run, bytes, cuts, what may go wrong, figures.
fn row(plan: &Plan, report: &crate::explore::Report) -> String {
    let mut wrong = Vec::new();
    for (count, what) in [
        (plan.faults, "faults"),
        (plan.replays, "replays"),
        (plan.crashes, "deaths of a server"),
        (plan.moves, "moves"),
    ] {
        if count > 0 {
            wrong.push(format!("{count} {what}"));
        }
    }
    for ([a, b], what) in
        [(plan.restarts, "restarts"), (plan.suspends, "suspends"), (plan.aborts, "aborts")]
    {
        if a + b > 0 {
            wrong.push(format!("{a},{b} {what}"));
        }
    }
    let begins = if plan.established { "" } else { "CONNECT; " };
    let batch = if plan.batch > 0 { "drivers read on; " } else { "" };
    let near = if plan.lazy { "slow apps; " } else { "" };
    let small = if plan.send_buffer < 8 {
        format!("buffers {},{}; ", plan.send_buffer, plan.receive_buffer)
    } else {
        String::new()
    };
    let differs = match plan.differs {
        Some(at) => format!("a copy that differs at {at}; "),
        None => String::new(),
    };
    let urgent = if plan.urgent { "urgent last bytes; " } else { "" };
    let tickets = if plan.replayable { "tickets; " } else { "" };
    let wrong = if wrong.is_empty() { "nothing".to_owned() } else { wrong.join(", ") };
    format!(
        "| {} | {},{} | {},{} | {begins}{tickets}{differs}{urgent}{batch}{near}{small}{wrong} | \
            {} | {} | {} | {} | {:.1} |",
        plan.name,
        plan.up,
        plan.down,
        plan.cuts[0],
        plan.cuts[1],
        report.states,
        report.steps,
        report.depth,
        report.ends,
        report.took.as_secs_f64()
    )
}

macro_rules! runs {
    ($(
        $(#[$attribute:meta])*
        $fact:ident: $name:literal $base:ident { $($field:ident: $value:expr),* $(,)? };
    )*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $fact() {
                holds(Plan { name: $name, $($field: $value,)* ..$base });
            }
        )*
    };
}

runs! {
    the_brokers_process_dies_at_any_store: "X1" RESTARTS { restarts: [1, 0] };
    a_servers_process_dies_at_any_store: "X2" RESTARTS { restarts: [0, 1] };
    a_process_dies_among_faults: "X3" RESTARTS { faults: 1, restarts: [1, 0], down: 0 };
    all_arrives_when_nothing_breaks: "R0" UP { up: 2, down: 2, cuts: [2, 2] };
    all_arrives_through_a_fault: "R1" UP { up: 2, down: 2, cuts: [2, 2], faults: 1 };
    both_users_suspend_and_a_link_breaks: "R2" UP { cuts: [1, 1], faults: 1, suspends: [1, 1] };
    an_abort_reaches_a_suspended_server: "B6" UP {
        down: 0, faults: 1, suspends: [0, 1], aborts: [1, 0]
    };
    a_server_dies_and_the_app_is_told: "R3" UP { up: 2, cuts: [1, 1], faults: 1, crashes: 1 };
    both_ends_abort_at_any_time: "R4" UP { cuts: [1, 1], faults: 1, aborts: [1, 1] };
    an_old_first_frame_changes_nothing: "R5" CALM { cuts: [1, 1], faults: 1, replays: 1 };
    two_faults: "B1" UP { cuts: [2, 2], faults: 2 };
    three_faults: "B3" UP { down: 0, cuts: [1, 1], faults: 3 };
    two_faults_and_suspends: "B4" UP { down: 0, cuts: [1, 0], faults: 2, suspends: [1, 1] };
    a_suspended_session_is_aborted: "B8" UP {
        down: 0, cuts: [1, 0], faults: 2, aborts: [1, 0], suspends: [1, 0]
    };
    two_old_first_frames: "B9" CALM { down: 0, cuts: [1, 0], faults: 1, replays: 2 };
    a_server_dies_while_users_act: "B10" UP {
        down: 0, cuts: [1, 0], faults: 1, crashes: 1, suspends: [1, 0], aborts: [1, 0]
    };
    plain_acknowledgements: "C1" UP { up: 2, faults: 1, ack_timer: true };
    plain_acknowledgements_and_two_faults: "C3" UP { up: 2, down: 0, faults: 2, ack_timer: true };
    drivers_read_on_before_they_act: "D1" UP { cuts: [1, 0], faults: 1, batch: 2 };
    drivers_read_on_among_faults: "D2" UP { down: 0, faults: 2, batch: 3 };
    drivers_read_on_and_users_suspend: "D3" UP { faults: 1, suspends: [1, 0], batch: 2 };
    drivers_read_on_and_ends_abort: "D4" UP { faults: 1, aborts: [1, 1], batch: 2 };
    drivers_read_on_with_tickets: "D5" TICKETS { faults: 1, crashes: 1, batch: 2 };
    slow_apps_and_buffers_of_one_byte: "F1" TIGHT {
        up: 3, down: 3, send_buffer: 1, receive_buffer: 1
    };
    slow_apps_and_a_link_of_one_frame: "F2" TIGHT {
        up: 2, send_buffer: 1, receive_buffer: 1, pipe: 1, faults: 1
    };
    slow_apps_through_a_fault: "F3" TIGHT { up: 2, faults: 1 };
    connects_through_two_faults: "K1" CALM { faults: 2 };
    connects_while_users_suspend: "K2" CALM { faults: 1, suspends: [1, 1] };
    connects_while_ends_abort: "K3" CALM { down: 0, faults: 2, aborts: [1, 1] };
    connects_while_a_server_dies: "K4" CALM { cuts: [1, 1], faults: 1, crashes: 1 };
    a_second_server_goes_on: "T1" TICKETS { up: 2, faults: 1, crashes: 1 };
    a_second_server_goes_on_from_the_start: "T2" TICKETS {
        cuts: [1, 1], faults: 1, crashes: 1, established: false
    };
    a_second_server_dies_too: "T3" TICKETS { up: 2, down: 2, crashes: 2 };
    a_second_server_for_a_suspended_session: "T4" TICKETS {
        faults: 1, crashes: 1, suspends: [1, 0]
    };
    a_broker_leaves_a_server_that_works: "T5" TICKETS { faults: 1, moves: 1, crashes: 1 };
    a_slow_service_dies: "T6" TICKETS { crashes: 1, lazy: true, up: 2 };
    another_server_catches_up: "W1" BESIDE { down: 2 };
    another_server_is_asked_among_faults: "W2" BESIDE { up: 0, down: 2, faults: 1 };
    one_of_two_servers_dies: "W3" BESIDE { up: 0, down: 2, crashes: 1 };
    a_copy_that_differs_is_found_out: "W4" BESIDE { up: 0, down: 2, differs: Some(1), faults: 1 };
    urgent_bytes_keep_their_mark: "U1" UP { cuts: [1, 1], up: 2, faults: 1, urgent: true };
    urgent_bytes_for_slow_apps: "U2" TIGHT { up: 2, faults: 1, urgent: true };
    urgent_bytes_from_the_start: "U3" CALM { faults: 2, urgent: true };
    #[ignore = "large"]
    large_both_processes_die: "X4" RESTARTS { restarts: [1, 1], up: 1, down: 1, cuts: [1, 0] };
    #[ignore = "large"]
    large_a_process_dies_twice: "X5" RESTARTS { restarts: [2, 0], up: 1, down: 1, cuts: [0, 0] };
    #[ignore = "large"]
    large_a_process_dies_and_users_suspend: "X6" RESTARTS {
        restarts: [1, 0], down: 0, cuts: [0, 0], suspends: [1, 0]
    };
    #[ignore = "large"]
    large_small_windows_beside: "W5" BESIDE {
        up: 0, down: 2, send_buffer: 2, receive_buffer: 2, ack_every: 2, lazy: true
    };

    #[ignore = "large"]
    large_buffers_of_two_bytes: "B2" UP {
        up: 3, down: 2, cuts: [2, 2], faults: 1, send_buffer: 2
    };
    #[ignore = "large"]
    large_two_suspends_each_side: "B5" UP {
        down: 0, cuts: [0, 1], faults: 1, suspends: [2, 2]
    };
    #[ignore = "large"]
    large_two_faults_and_cuts: "H1" UP { up: 2, cuts: [2, 1], faults: 2 };
    #[ignore = "large"]
    large_aborts_and_suspends: "B11" UP { faults: 1, suspends: [1, 1], aborts: [1, 1] };
    #[ignore = "large"]
    large_slow_apps: "F4" TIGHT { up: 3, down: 3 };
    #[ignore = "large"]
    large_slow_apps_through_a_fault: "F5" TIGHT { up: 2, down: 2, faults: 1 };
    #[ignore = "large"]
    large_slow_apps_and_a_link_of_one_frame: "F6" TIGHT { up: 3, down: 3, pipe: 1 };
    #[ignore = "large"]
    large_connects_through_faults_and_suspends: "K5" CALM { faults: 2, suspends: [1, 1] };
    #[ignore = "large"]
    large_three_faults_each_way: "B12" UP { cuts: [1, 1], faults: 3 };
    #[ignore = "large"]
    large_moves_there_and_back: "T7" TICKETS { faults: 2, moves: 2 };
    #[ignore = "large"]
    large_a_broker_moves_among_faults: "T8" TICKETS { cuts: [1, 0], faults: 2, moves: 1 };
    #[ignore = "large"]
    large_a_slow_service_dies_among_faults: "T9" TICKETS {
        up: 2, faults: 1, crashes: 1, lazy: true
    };
    #[ignore = "large"]
    large_two_faults_and_a_suspend_each_side: "H2" UP {
        cuts: [1, 0], faults: 2, suspends: [1, 1]
    };

    #[ignore = "large"]
    large_there_and_back: "W6" BESIDE { moves: 2, down: 2 };
    #[ignore = "large"]
    large_another_server_among_faults: "W7" BESIDE { faults: 1 };
    #[ignore = "large"]
    large_one_of_two_servers_dies_among_faults: "W8" BESIDE { up: 0, faults: 1, crashes: 1 };
    #[ignore = "large"]
    large_small_windows_beside_among_faults: "W9" BESIDE {
        up: 0, down: 1, faults: 1, send_buffer: 2, receive_buffer: 2, ack_every: 2, lazy: true
    };
    #[ignore = "large"]
    large_a_copy_that_differs_among_faults: "W10" BESIDE { up: 0, differs: Some(1), faults: 1 };
    #[ignore = "large"]
    large_users_suspend_beside: "W11" BESIDE { up: 0, down: 2, suspends: [1, 1] };
}
