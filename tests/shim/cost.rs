//! What the shim costs a program that has no route.

use std::process::Command;

use crate::bed::{Bed, run};
use crate::relay::Rules;

/// Connects a datagram socket, which costs little by itself, many times.
const SOURCE: &str = r#"
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
int main(void) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9) };
    inet_pton(AF_INET, "127.77.0.1", &to.sin_addr);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    double best = 1e9;
    for (int round = 0; round < 40; round++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int i = 0; i < 5000; i++) connect(fd, (void *)&to, sizeof to);
        clock_gettime(CLOCK_MONOTONIC, &b);
        double ns = ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / 5000;
        if (ns < best) best = ns;
    }
    printf("%.0f\n", best);
}
"#;

#[test]
fn an_unrouted_connect_costs_less_than_a_microsecond() {
    let bed = Bed::new(Rules::loopback());
    let (source, program) = (bed.path().join("cost.c"), bed.path().join("cost"));
    std::fs::write(&source, SOURCE).unwrap();
    let said = run(Command::new("cc").args(["-O2", "-w", "-o"]).arg(&program).arg(&source));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let program = program.to_str().unwrap();
    let bare: f64 = run(&mut Command::new(program)).out.trim().parse().unwrap();
    let shimmed: f64 = bed.run(program, &[]).out.trim().parse().unwrap();
    eprintln!("connect: {bare} ns bare, {shimmed} ns with the shim and no route");
    assert!(shimmed - bare < 1_000.0, "{bare} ns bare, {shimmed} ns with the shim");
}
