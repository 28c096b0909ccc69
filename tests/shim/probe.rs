//! The probes: what a program sees with and without the shim has to be the same.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use stp_proto::local::wire::PassedWhy;

use crate::bed::{Bed, run};
use crate::relay::Rules;

/// Compiles a C probe into the bed.
pub fn compiled(bed: &Bed, name: &str) -> PathBuf {
    let program = bed.path().join(name);
    let source = format!("{}/shim/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-w", "-D_GNU_SOURCE", "-o"]).arg(&program).arg(source).arg("-lpthread");
    let said = run(&mut compiler);
    assert_eq!(said.code, Some(0), "the probe compiles: {}", said.err);
    program
}

fn sees_the_same(topics: &[&str]) {
    sees_the_same_by("probe", topics);
}

fn processes_see_the_same(topics: &[&str]) {
    sees_the_same_by("process", topics);
}

fn sees_the_same_by(probe: &str, topics: &[&str]) {
    let passed = tells_passed(probe, topics);
    assert_eq!(passed, [], "{topics:?}: everything went by sessions");
}

/// As [`sees_the_same_by`], for a program whose clock would stand still in a pause.
fn sees_the_same_by_its_clock(topics: &[&str]) {
    let rules = Rules { stops_clock: true, ..Rules::loopback() };
    assert_eq!(tells_passed_by(rules, "clock", topics), [], "everything went by sessions");
}

/// As [`sees_the_same_by`], and says why connects went to the kernel instead of the broker.
fn tells_passed(probe: &str, topics: &[&str]) -> Vec<PassedWhy> {
    tells_passed_by(Rules::loopback(), probe, topics)
}

fn tells_passed_by(rules: Rules, probe: &str, topics: &[&str]) -> Vec<PassedWhy> {
    let passed = Arc::clone(&rules.passed);
    let bed = Bed::new(rules);
    let probe = compiled(&bed, probe);
    let program = probe.to_str().expect("a temporary path");
    for topic in topics {
        let bare = run(Command::new(program).arg(topic));
        let shimmed = bed.run(program, &[topic]);
        assert_eq!(bare.code, Some(0), "{topic} bare: {}{}", bare.out, bare.err);
        assert!(bare.out.lines().count() > 0, "{topic} says something");
        let pairs = bare.out.lines().zip(shimmed.out.lines());
        let other: Vec<_> = pairs.filter(|(bare, shimmed)| bare != shimmed).collect();
        assert!(other.is_empty(), "{topic}: bare, shimmed: {other:#?}");
        assert_eq!(shimmed.code, Some(0), "{topic}: {}{}", shimmed.out, shimmed.err);
        assert_eq!(bare.out.lines().count(), shimmed.out.lines().count(), "{topic}");
    }
    let passed = passed.lock().expect("nobody panics");
    passed.clone()
}

#[test]
fn names_and_source_addresses_are_tcps() {
    sees_the_same(&["names", "bound", "six"]);
}

#[test]
fn messages_queues_and_repeated_connects_are_tcps() {
    sees_the_same(&["basics", "again", "fast_open"]);
}

#[test]
fn options_are_kept_over_connect_dup_and_exec() {
    sees_the_same(&["options"]);
}

#[test]
fn a_nonblocking_connect_succeeds_and_fails_like_tcps() {
    sees_the_same(&["nonblocking", "refused"]);
}

#[test]
fn half_closed_and_closed_look_like_tcp() {
    sees_the_same(&["ends"]);
}

#[test]
fn an_abort_is_seen_as_an_abort_at_both_ends() {
    sees_the_same(&["aborts"]);
}

#[test]
fn epoll_registrations_made_before_connect_hold() {
    sees_the_same(&["epolls"]);
}

#[test]
fn twins_made_before_connect_are_connected_too() {
    sees_the_same(&["twins"]);
}

#[test]
fn a_crowd_of_references_made_before_connect_holds() {
    sees_the_same(&["crowds", "inherited"]);
}

#[test]
fn what_cannot_be_carried_over_goes_to_the_kernel_and_the_broker_is_told() {
    assert_eq!(tells_passed("probe", &["excess"]), [PassedWhy::TooManyReferences]);
}

#[test]
fn a_socket_that_is_bound_to_an_interface_keeps_to_it() {
    if nix::unistd::geteuid().is_root() {
        assert_eq!(tells_passed("probe", &["devices"]), [PassedWhy::Interface]);
    }
}

#[test]
fn bad_arguments_get_the_kernels_errors() {
    sees_the_same(&["arguments", "hosts"]);
}

#[test]
fn signals_and_timeouts_interrupt_a_blocked_connect() {
    sees_the_same(&["waits"]);
}

#[test]
fn a_thread_can_be_cancelled_in_recv_and_in_connect() {
    sees_the_same(&["cancels"]);
}

#[test]
fn bulk_data_is_right_in_both_directions() {
    sees_the_same(&["bulk"]);
}

#[test]
fn a_clock_that_may_stand_still_runs_as_the_kernels_while_nothing_is_paused() {
    sees_the_same_by_its_clock(&["clocks", "deadlines", "alarms"]);
}

#[test]
fn children_of_every_kind_share_a_session() {
    processes_see_the_same(&["forks", "vforks", "spawns", "daemons"]);
}

#[test]
fn many_threads_connect_at_once() {
    processes_see_the_same(&["threads"]);
}

#[test]
fn signals_interrupt_and_restart_blocked_calls() {
    processes_see_the_same(&["interrupts"]);
}

#[test]
fn everything_else_may_be_closed() {
    processes_see_the_same(&["closings"]);
}

#[test]
fn a_session_is_handed_to_another_process_and_replaced_by_dup() {
    processes_see_the_same(&["passing", "over"]);
}

#[test]
fn a_shut_reading_side_wakes_its_reader_and_lets_the_peer_send() {
    processes_see_the_same(&["shuts"]);
}

#[test]
fn urgent_bytes_keep_their_mark_in_both_directions() {
    sees_the_same_by("urgent", &["out", "in", "first", "waits", "bulk"]);
}

#[test]
fn an_urgent_byte_signals_the_sockets_owner() {
    sees_the_same_by("urgent", &["signals"]);
}

#[test]
fn bytes_can_be_thrown_away_unread() {
    processes_see_the_same(&["truncations", "several"]);
}

#[test]
fn bad_pointers_get_efault() {
    processes_see_the_same(&["pointers"]);
}

#[test]
fn a_program_without_a_free_descriptor_connects() {
    // Without a descriptor for /proc the shim cannot tell whether the socket still has its twin.
    let passed = tells_passed("process", &["full"]);
    assert!(passed.iter().all(|why| *why == PassedWhy::UnreadableReferences), "{passed:?}");
}

#[test]
fn a_server_reaches_the_address_that_getsockname_says() {
    processes_see_the_same(&["active"]);
}
