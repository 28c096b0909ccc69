//! Other machines: shells, copies, repositories.

use anyhow::{Result, ensure};

use crate::bed::{BULK, Bed, Row, play, tcp};

/// A real sshd at port 22 with keys of its own; the answer is the client's options.
pub fn sshd(bed: &mut Bed<'_>) -> Result<String> {
    let dir = bed.dir("ssh")?.display().to_string();
    let make = format!(
        "mkdir -p /run/sshd; cd {dir}; ssh-keygen -qt ed25519 -N '' -f host; \
         ssh-keygen -qt ed25519 -N '' -f user; cp user.pub authorized; \
         echo \"box.lab $(cat host.pub)\" >known"
    );
    bed.prepare("bash", &["-euc", &make])?;
    let options = [
        format!("HostKey={dir}/host"),
        format!("AuthorizedKeysFile={dir}/authorized"),
        "PidFile=none".to_owned(),
        "StrictModes=no".to_owned(),
        "UsePAM=no".to_owned(),
        "PermitRootLogin=prohibit-password".to_owned(),
        "Subsystem=sftp internal-sftp".to_owned(),
    ];
    let mut arguments = vec!["-D", "-e", "-f", "/dev/null"];
    arguments.extend(options.iter().flat_map(|option| ["-o", option]));
    bed.serve("/usr/sbin/sshd", &arguments, 22)?;
    bed.open(&[tcp("box.lab:22", 22)])?;
    Ok(format!(
        "-F none -i {dir}/user -o UserKnownHostsFile={dir}/known -o BatchMode=yes -o Compression=no"
    ))
}

#[test]
fn ssh_moves_data_both_ways() {
    let row = Row { program: "ssh", does: "a command's output and input", cuts: BULK };
    play(&row, |bed| {
        let options = sshd(bed)?;
        let (big, put) = (bed.payload().display().to_string(), bed.dir("put")?.join("put"));
        let there = put.display();
        bed.bash(&format!("ssh {options} box.lab 'cat {big}' >got"))?;
        bed.bash(&format!("ssh {options} box.lab 'cat >{there}' <{big}"))?;
        bed.got("got")?;
        bed.must_be_payload(&put)
    });
}

#[test]
fn scp_and_sftp_copy() {
    let row = Row { program: "scp, sftp", does: "a file there and back", cuts: BULK };
    play(&row, |bed| {
        let options = sshd(bed)?;
        let (big, put) = (bed.payload().display().to_string(), bed.dir("put")?.join("put"));
        let there = put.display();
        bed.bash(&format!(
            "scp -q {options} {big} box.lab:{there}; scp -q {options} box.lab:{there} got; \
             printf 'get {there} also\\n' | sftp -q {options} -b - box.lab"
        ))?;
        bed.must_be_payload(&put)?;
        bed.got("got")?;
        bed.got("also")
    });
}

#[test]
fn rsync_over_ssh() {
    let row = Row { program: "rsync", does: "over ssh", cuts: BULK };
    play(&row, |bed| {
        let options = sshd(bed)?;
        let ssh = format!("ssh {options}");
        let there = format!("box.lab:{}", bed.payload().display());
        bed.run("rsync", &["-a", "-e", &ssh, &there, "got"])?;
        bed.got("got")
    });
}

#[test]
fn rsync_over_its_daemon() {
    let row = Row { program: "rsync", does: "daemon, fetch and store", cuts: BULK };
    play(&row, |bed| {
        let (share, conf) = (bed.dir("share")?, bed.dir("rsync")?.join("conf"));
        let (big, there) = (bed.payload().display().to_string(), share.display());
        bed.prepare("bash", &["-euc", &format!("cp -p {big} {there}/big; mkdir {there}/in")])?;
        let text = format!(
            "use chroot = no\nuid = root\ngid = root\n[share]\npath = {there}\nread only = no\n"
        );
        std::fs::write(&conf, text)?;
        let config = format!("--config={}", conf.display());
        bed.serve("rsync", &["--daemon", "--no-detach", &config], 873)?;
        bed.open(&[tcp("files.lab:873", 873)])?;
        bed.run("rsync", &["-a", "rsync://files.lab/share/big", "got"])?;
        bed.got("got")?;
        bed.run("rsync", &["-a", "got", "rsync://files.lab/share/in/put"])?;
        bed.must_be_payload(&share.join("in/put"))
    });
}

/// A repository `share/repo.git` with two commits that are 8 MB together.
fn repository(bed: &Bed<'_>) -> Result<()> {
    let make = format!(
        "mkdir work; cd work; git init -q .; git config user.name n; git config user.email e@e; \
         head -c 5000000 {0} >one; git add one; git commit -qm one; \
         tail -c 3000000 {0} >two; git add two; git commit -qm two; \
         git clone -q --bare . {1}/repo.git; git -C {1}/repo.git update-server-info",
        bed.payload().display(),
        bed.dir("share")?.display()
    );
    bed.prepare("bash", &["-euc", &make])?;
    Ok(())
}

/// Clones from `url`; the clone must be the repository.
fn clone(bed: &Bed<'_>, url: &str) -> Result<()> {
    bed.run("git", &["clone", "-q", url, "clone"])?;
    must_be_repository(bed)
}

fn must_be_repository(bed: &Bed<'_>) -> Result<()> {
    let head = |dir: &str| bed.prepare("git", &["-C", dir, "rev-parse", "HEAD"]);
    bed.prepare("git", &["-C", "clone", "fsck", "--strict"])?;
    ensure!(head("clone")?.out == head("work")?.out, "another commit");
    bed.prepare("git", &["-C", "clone", "diff", "--exit-code", "HEAD"])?;
    Ok(())
}

#[test]
fn git_over_its_own_protocol() {
    let row = Row { program: "git", does: "clone, git://", cuts: BULK };
    play(&row, |bed| {
        repository(bed)?;
        let base = format!("--base-path={}", bed.dir("share")?.display());
        bed.serve("git", &["daemon", "--export-all", "--reuseaddr", &base], 9418)?;
        bed.open(&[tcp("box.lab:9418", 9418)])?;
        clone(bed, "git://box.lab/repo.git")
    });
}

#[test]
fn git_over_ssh() {
    let row = Row { program: "git", does: "clone, ssh", cuts: BULK };
    play(&row, |bed| {
        repository(bed)?;
        let options = sshd(bed)?;
        let ssh = format!("core.sshCommand=ssh {options}");
        let from = format!("box.lab:{}/repo.git", bed.dir("share")?.display());
        bed.run("git", &["-c", &ssh, "clone", "-q", &from, "clone"])?;
        must_be_repository(bed)
    });
}

#[test]
fn git_over_http() {
    let row =
        Row { program: "git", does: "clone and push, http:// (git-http-backend)", cuts: BULK };
    play(&row, |bed| {
        repository(bed)?;
        let (share, run) = (bed.dir("share")?, bed.dir("cgi")?);
        let (share, socket) = (share.display(), run.join("socket"));
        let socket = socket.display();
        let configure = format!("git -C {share}/repo.git config http.receivepack true");
        bed.prepare("bash", &["-euc", &configure])?;
        bed.web(&format!(
            "server {{ listen 8080; location / {{
               include /etc/nginx/fastcgi_params; fastcgi_pass unix:{socket};
               fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend;
               fastcgi_param GIT_PROJECT_ROOT {share}; fastcgi_param GIT_HTTP_EXPORT_ALL 1;
               fastcgi_param REMOTE_USER lab; fastcgi_param PATH_INFO $uri; }} }}"
        ))?;
        let _cgi = bed.start("fcgiwrap", &["-s", &format!("unix:{socket}")])?;
        bed.open(&[tcp("box.lab:8080", 8080)])?;
        clone(bed, "http://box.lab:8080/repo.git")?;
        bed.bash(
            "cd clone; git config user.name n; git config user.email e@e; \
             head -c 500000 /dev/urandom >three; git add three; git commit -qm three; \
             git push -q origin HEAD:refs/heads/pushed",
        )?;
        bed.prepare("bash", &["-euc", &format!("cd {share}/repo.git; git fsck; git log pushed")])?;
        Ok(())
    });
}
