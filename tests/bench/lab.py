"""The programs of a benchmark: started in a directory of their own, ended by their process ids."""
import os, pathlib, signal, socket, subprocess, sys, tempfile, time

TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, true, seconds=10):
    """Waits until `true()` holds; ends the benchmark with a message if it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.02)
    sys.exit(f"error: {what}: not after {seconds} s")


def wait_port(port):
    def listens():
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    wait_for(f"something listens on port {port}", listens)


def cpu_of(pids):
    """User and system seconds of processes and of those of their children that still run."""
    total = 0
    for pid in pids:
        for task in [pid, *children(pid)]:
            try:
                stat = pathlib.Path(f"/proc/{task}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(stat[11]) + int(stat[12])
            except FileNotFoundError:
                pass
    return total / TICK


def children(pid):
    try:
        return [
            int(c) for c in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except FileNotFoundError:
        return []


def anonymous_kib(pid):
    """Memory that is nobody's file: what a process has allocated and touched."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


class Lab:
    """A temporary directory and the processes that work in it."""

    def __init__(self, root):
        self.root, self.processes = pathlib.Path(root), []
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="session-bench-"))
        self.dir.chmod(0o755)

    def start(self, name, *command, **kwargs):
        """Starts a program that runs until the end; its output goes to a file of this name."""
        with open(self.dir / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **kwargs
            )
        self.processes.append(process)
        return process.pid

    def kill(self, pid):
        """Ends one of them as a crash would."""
        process = next(p for p in self.processes if p.pid == pid)
        process.kill()
        process.wait()
        self.processes.remove(process)

    def show_logs(self):
        """The last lines that each program wrote, for whoever asks why it went wrong."""
        for log in sorted(self.dir.glob("*.log")):
            for line in log.read_text(errors="replace").splitlines()[-5:]:
                print(f"  {log.stem}: {line}", file=sys.stderr)

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        subprocess.run(["rm", "-rf", str(self.dir)], check=True)

    def write(self, name, text):
        path = self.dir / name
        path.write_text(text)
        return str(path)

    def compile(self, source, *options):
        """A C program of tests/, compiled."""
        program = self.dir / pathlib.Path(source).stem
        subprocess.run(
            ["cc", "-O2", "-Wall", *options, "-o", program, self.root / source], check=True
        )
        return program
