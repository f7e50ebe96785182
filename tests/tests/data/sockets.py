"""One socket of each kind: tells what becomes of what it sends. Words are KIND ADDRESS PORT ...

Prints `ok`, or the name of the errno. Only the system calls that a workload has; nothing is installed.
"""

import ctypes
import errno
import ipaddress
import mmap
import os
import socket
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
WAIT = 1.0 * int(os.environ.get("NAMEGATE_TEST_PATIENCE", "1"))


def mapped(address):
    return address if ":" in address else "::ffff:" + address


def stream(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.settimeout(WAIT)
    return made


def datagram(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(WAIT)
    return made


def tcp(address, port):
    with stream(address, port) as made:
        made.connect((address, port))


def tcp_mapped(address, port):
    tcp(mapped(address), port)


def fastopen(address, port):
    with stream(address, port) as made:
        made.setblocking(True)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("=qq", 1, 0))
        made.sendto(b"GET / HTTP/1.0\r\n\r\n", socket.MSG_FASTOPEN, (address, port))


def udp(address, port):
    with datagram(address) as made:
        made.sendto(b"hello", (address, port))


def udp_connected(address, port):
    with datagram(address) as made:
        made.connect((address, port))
        made.send(b"hello")


def udp_mapped(address, port):
    udp(mapped(address), port)


def udp_mapped_connected(address, port):
    udp_connected(mapped(address), port)


def checksum(octets):
    total = sum(struct.unpack("!%dH" % (len(octets) // 2), octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request():
    head = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
    return struct.pack("!BBHHH", 8, 0, checksum(head), 77, 1)


def raw_icmp(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as made:
        made.sendto(echo_request(), (address, 0))


def raw_neighbour(address, port):
    """A neighbour solicitation (ICMPv6 type 135)."""
    links = [number for number, name in socket.if_nameindex() if name != "lo"]
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as made:
        for hops in (socket.IPV6_UNICAST_HOPS, socket.IPV6_MULTICAST_HOPS):
            made.setsockopt(socket.IPPROTO_IPV6, hops, 255)
        scope = links[0] if address.startswith("ff") else 0
        made.sendto(struct.pack("!BBHI", 135, 0, 0, 0) + bytes(16), (address, 0, 0, scope))


def raw_header(address, port, source=5353):
    """A datagram, the IP header included."""
    payload = b"hello"
    udp_head = struct.pack("!HHHH", int(source), port, 8 + len(payload), 0)
    body = udp_head + payload
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45, 0, 20 + len(body), 1, 0, 64, socket.IPPROTO_UDP, 0,
        bytes(4), socket.inet_aton(address),
    )
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
        made.sendto(head + body, (address, 0))


def sockaddr(address, port):
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(address) + bytes(8)


class Uring:
    """A ring for one request at a time (io_uring_setup 425, io_uring_enter 426)."""

    def __init__(self):
        params = ctypes.create_string_buffer(120)
        self.fd = LIBC.syscall(425, 4, params)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        words = struct.unpack("=10I", params.raw[:40])
        self.sq = struct.unpack("=10I", params.raw[40:80])
        self.cq = struct.unpack("=10I", params.raw[80:120])
        ring = max(self.sq[6] + 4 * words[0], self.cq[5] + 16 * words[1])
        self.ring = mmap.mmap(self.fd, ring, offset=0)
        self.entries = mmap.mmap(self.fd, 64 * words[0], offset=0x10000000)
        self.count = 0

    def run(self, opcode, fd, pointer, length, offset):
        """The result of one request: a count, or a negative errno."""
        entry = struct.pack("=BBHiQQII", opcode, 0, 0, fd, offset, pointer, length, 0)
        self.entries[0:64] = entry + bytes(64 - len(entry))
        tail, mask, array = self.sq[1], self.sq[2], self.sq[6]
        at = array + 4 * (self.count & self.read(mask))
        self.ring[at:at + 4] = struct.pack("=I", 0)
        self.count += 1
        self.ring[tail:tail + 4] = struct.pack("=I", self.count)
        if LIBC.syscall(426, self.fd, 1, 1, 1, None, 0) < 0:
            raise OSError(ctypes.get_errno(), "io_uring_enter")
        head = self.read(self.cq[0])
        at = self.cq[5] + 16 * (head & self.read(self.cq[2]))
        result = struct.unpack("=i", self.ring[at + 8:at + 12])[0]
        self.ring[self.cq[0]:self.cq[0] + 4] = struct.pack("=I", head + 1)
        return result

    def read(self, at):
        return struct.unpack("=I", self.ring[at:at + 4])[0]


def checked(result):
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def uring_connect(address, port):
    name = ctypes.create_string_buffer(sockaddr(address, port), 16)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        checked(Uring().run(16, made.fileno(), ctypes.addressof(name), 0, 16))


def uring_sendmsg(address, port):
    name = ctypes.create_string_buffer(sockaddr(address, port), 16)
    data = ctypes.create_string_buffer(b"hello", 5)
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 5), 16)
    message = ctypes.create_string_buffer(
        struct.pack("=QIIQQQQII", ctypes.addressof(name), 16, 0, ctypes.addressof(vector), 1, 0, 0, 0, 0), 56
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        checked(Uring().run(9, made.fileno(), ctypes.addressof(message), 1, 0))


QUERY = struct.pack("!HHHHHH", 0x1234, 0x0100, 1, 0, 0, 0) + b"\3web\7example\3com\0" + struct.pack("!HH", 1, 1)


def name_of(peer):
    return "%s %d" % (ipaddress.ip_address(peer[0]), peer[1])


def ask(made, server):
    made.sendto(QUERY, server)
    answer, peer = made.recvfrom(2000)
    print(name_of(peer), ".".join(str(octet) for octet in answer[-4:]))


def dns(address, port):
    """Asks by a socket that is not connected: who answers, and what."""
    with datagram(address) as made:
        ask(made, (address, port))


def dns_mapped(address, port):
    dns(mapped(address), port)


def dns_two(address, port, other):
    """Asks one server after the other by the same socket."""
    with datagram(address) as made:
        ask(made, (address, port))
        ask(made, (other, port))


def dns_from(address, port, source):
    with datagram(address) as made:
        made.bind((source, 0))
        ask(made, (address, port))


def dns_connected(address, port):
    with datagram(address) as made:
        made.connect((address, port))
        print(name_of(made.getpeername()))
        made.send(QUERY)
        answer, peer = made.recvfrom(2000)
        print(name_of(peer))


def dns_connected_mapped(address, port):
    dns_connected(mapped(address), port)


def peer(address, port):
    """Who a connection is to, as the socket tells."""
    with stream(address, port) as made:
        made.connect((address, port))
        print(name_of(made.getpeername()))


def peer_mapped(address, port):
    peer(mapped(address), port)


def hears(address, port):
    """Waits at an address and tells who sent something: for as long as the other side may need to begin."""
    with datagram(address) as made:
        made.settimeout(60 * WAIT)
        made.bind((address, port))
        print("bound", flush=True)
        print(name_of(made.recvfrom(100)[1]), flush=True)
        sys.stdin.read()


def hold(address, port):
    """Connects two datagram sockets and keeps one connection; then for each line that it reads tells whether
    they still carry anything."""
    with stream(address, port) as made, datagram(address) as other:
        made.connect((address, port))
        other.connect((address, port))
        print("held", flush=True)
        for line in sys.stdin:
            try:
                made.sendall(line.encode())
                print(made.recv(100).decode().strip(), flush=True)
            except OSError as error:
                print(errno.errorcode.get(error.errno, error), flush=True)


def try_often(address, port, times):
    """Connects again and again; how often that was not refused."""
    passed = 0
    for _ in range(int(times)):
        try:
            with stream(address, port) as made:
                made.settimeout(0.2)
                made.connect((address, port))
                passed += 1
        except OSError:
            pass
    print(passed)


def forget(address, port, times):
    """Connects a socket, and then so many others, to a DNS server; what the first may still send."""
    with datagram(address) as first:
        first.connect((address, port))
        for _ in range(int(times)):
            with datagram(address) as other:
                other.connect((address, port))
        first.send(QUERY)


def flood(address, port, times):
    """So many messages, each with an id of its own as far as there are any."""
    for start in range(0, int(times), 65536):
        with datagram(address) as made:
            made.connect((address, port))
            for number in range(min(65536, int(times) - start)):
                made.send(struct.pack("!H", number))


def unlink(number, _):
    """Takes a BPF link off whatever it is on: BPF_LINK_GET_FD_BY_ID 30, BPF_LINK_DETACH 34."""
    def bpf(command, words):
        attributes = ctypes.create_string_buffer(words, 128)
        result = LIBC.syscall(321, command, attributes, 128)
        if result < 0:
            raise OSError(ctypes.get_errno(), "bpf")
        return result

    link = bpf(30, struct.pack("=I", int(number)))
    bpf(34, struct.pack("=I", link))


def main():
    kind, address, port, *more = sys.argv[1:]
    try:
        globals()[kind](address, int(port), *more)
    except OSError as error:
        name = "ETIMEDOUT" if isinstance(error, TimeoutError) else errno.errorcode.get(error.errno, str(error))
        print(name)
    else:
        print("ok")


main()
