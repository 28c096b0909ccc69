//! Databases: what was done exactly once must be there exactly once.

use anyhow::{Context, Result, ensure};
use stp_tests::postgres::commands;

use crate::bed::{BULK, Bed, Row, play, tcp};

/// Where a program with many small exchanges loses its link.
const SMALL: &[u64] = &[60_000, 120_000, 180_000];

/// The same for redis-cli, which first loads 150 kB of documentation in one go.
const REDIS: &[u64] = &[220_000, 330_000, 700_000];

/// A real PostgreSQL server.
pub fn postgres_with(bed: &mut Bed<'_>, more: &[&str]) -> Result<()> {
    let (make, serve) = commands(&bed.dir("postgres")?);
    bed.prepare("bash", &["-euc", &make])?;
    let serve: Vec<&str> = serve.iter().map(String::as_str).collect();
    bed.serve(serve[0], &[&serve[1..], more].concat(), 5432)
}

/// The same, reached as `db.lab`.
pub fn postgres(bed: &mut Bed<'_>) -> Result<()> {
    postgres_with(bed, &[])?;
    bed.open(&[tcp("db.lab:5432", 5432)])
}

/// How psql is started: without a file of its own, and only the values printed.
pub const PSQL: [&str; 6] = ["-XqAt", "-h", "db.lab", "-U", "postgres", "-c"];

#[test]
fn psql_copies_in_and_out() {
    let row = Row { program: "psql", does: "\\copy in and out", cuts: BULK };
    play(&row, |bed| {
        postgres(bed)?;
        bed.bash(&format!("base64 -w 100 {} >rows", bed.payload().display()))?;
        let psql = |sql: &str| bed.run("psql", &[&PSQL[..], &[sql]].concat());
        psql("create table rows (number serial, text text)")?;
        psql("\\copy rows (text) from 'rows'")?;
        psql("\\copy (select text from rows order by number) to 'back'")?;
        let (rows, back) = (std::fs::read(bed.home("rows"))?, std::fs::read(bed.home("back"))?);
        ensure!(rows == back, "{} bytes went in, {} came out", rows.len(), back.len());
        Ok(())
    });
}

#[test]
fn pgbench_loses_no_transaction() {
    let row = Row { program: "pgbench", does: "800 transactions of 4 clients", cuts: SMALL };
    play(&row, |bed| {
        postgres(bed)?;
        let at = ["-h", "db.lab", "-U", "postgres", "postgres"];
        // Made on the server, so that the cuts come later.
        bed.run("pgbench", &[&at[..], &["-q", "-i", "-I", "dtGp"]].concat())?;
        let how = ["-n", "-c", "4", "-j", "2", "-t", "200"];
        let ended = bed.run("pgbench", &[&at[..], &how].concat())?;
        ensure!(ended.out.contains("actually processed: 800/800"), "{}", ended.out);
        ensure!(ended.out.contains("failed transactions: 0 "), "{}", ended.out);
        let sums = "select count(*), sum(delta) = (select sum(abalance) from pgbench_accounts), \
                    sum(delta) = (select sum(bbalance) from pgbench_branches) from pgbench_history";
        let told = bed.run("psql", &[&PSQL[..], &[sums]].concat())?;
        ensure!(told.out.trim() == "800|t|t", "history, accounts, branches: {}", told.out);
        Ok(())
    });
}

#[test]
fn redis_counts_each_command_once() {
    let row = Row { program: "redis-cli", does: "2,000 commands in turn; --pipe", cuts: REDIS };
    play(&row, |bed| {
        let dir = bed.dir("redis")?.display().to_string();
        let set = ["--port", "6379", "--save", "", "--dir", &dir, "--protected-mode", "no"];
        bed.serve("redis-server", &set, 6379)?;
        bed.open(&[tcp("kv.lab:6379", 6379)])?;
        bed.bash("for _ in {1..2000}; do echo INCR counter; done | redis-cli -h kv.lab >answers")?;
        let answers = std::fs::read_to_string(bed.home("answers"))?;
        let right: Vec<String> = (1..=2000).map(|number: u32| number.to_string()).collect();
        ensure!(answers.lines().eq(right.iter()), "the answers are not 1 to 2000");
        let piped =
            bed.bash("for _ in {1..20000}; do echo INCR piped; done | redis-cli -h kv.lab --pipe")?;
        ensure!(piped.out.contains("errors: 0, replies: 20000"), "{}", piped.out);
        let last = bed.run("redis-cli", &["-h", "kv.lab", "GET", "piped"])?.out;
        ensure!(last.lines().last().context("no answer")? == "20000", "piped: {last}");
        Ok(())
    });
}
