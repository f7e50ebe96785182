"""What systemd does for a service of Type=notify with Restart=always and FileDescriptorStoreMax=, as
systemd.service(5), sd_notify(3) and sd_listen_fds(3) say it. Usage: NOTIFY_SOCKET STORE_MAX COMMAND...

SIGUSR1 restarts the service, SIGTERM stops it. Lines of its own begin with "systemd: ".
"""

import ctypes, fcntl, os, select, signal, socket, sys

path, store_max, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
store = []  # (name, fd), in the order in which they came


def say(text):
    sys.stdout.write("systemd: " + text + "\n")
    sys.stdout.flush()


def start():
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with its manager: this is a test
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 1000) for _, fd in store]
    os.closerange(3, 1000)
    for number, fd in enumerate(high):
        os.dup2(fd, 3 + number)
        os.close(fd)
    if high:
        os.environ["LISTEN_FDS"] = str(len(high))
        os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in store)
        os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["NOTIFY_SOCKET"] = path
    os.environ["WATCHDOG_USEC"] = "1000000"
    os.environ["WATCHDOG_PID"] = str(os.getpid())
    os.execvp(command[0], command)


def same(one, other):
    one, other = os.fstat(one), os.fstat(other)
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def heard(text, fds):
    words = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    name = words.get("FDNAME", "stored")
    if words.get("FDSTOREREMOVE") == "1":
        for entry in [entry for entry in store if entry[0] == name]:
            store.remove(entry)
            os.close(entry[1])
    for fd in fds:
        known = any(same(fd, kept) for _, kept in store)
        if words.get("FDSTORE") == "1" and not known and len(store) < store_max:
            # systemd polls what it keeps and lets go what has an error, unless it is told not to.
            assert words.get("FDPOLL") == "0", text
            store.append((name, fd))
        else:
            os.close(fd)
    for word in ("READY", "STOPPING", "WATCHDOG"):
        if words.get(word) == "1":
            say(f"{word} {len(store)}")


notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
notify.bind(path)
child = start()
stopping = False
wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
signal.set_wakeup_fd(wake_write)


def restart(*_):
    os.kill(child, signal.SIGTERM)


def stop(*_):
    global stopping
    stopping = True
    os.kill(child, signal.SIGTERM)


signal.signal(signal.SIGUSR1, restart)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGCHLD, lambda *_: None)
while True:
    ready, _, _ = select.select([notify, wake_read], [], [])
    if wake_read in ready:
        os.read(wake_read, 4096)
    while notify in ready:
        text, fds, _, _ = socket.recv_fds(notify, 4096, 8, socket.MSG_DONTWAIT)
        heard(text.decode(), fds)
        ready, _, _ = select.select([notify], [], [], 0)
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        say(f"ended {status}")
        if stopping:
            sys.exit(0)
        child = start()
