"""Runs a command in N network namespaces, as N machines on a network of limited bandwidth and latency (root, Linux).

usage: slow-network.py N RATE:DELAY[,RATE:DELAY...] COMMAND...
RATE is in bytes a second that each machine sends (0: as fast as it goes), DELAY in seconds one way. Of several conditions the first holds
until a machine asks for another: by a datagram to 10.9.0.250 whose only byte is the number of the condition. RANK, WORLD_SIZE, MASTER_ADDR and the
rest are set as a launcher sets them. Each namespace has a TUN device; this process carries the packets between them, each at its time.
Prints BYTES and PACKETS that were carried, and leaves with the largest status, 6 counting as success.
"""

import fcntl
import heapq
import os
import select
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
MTU = 65000


def machine(rank, size, command, channel):
    """In the namespace of one machine: makes its device, gives it to the carrier, and becomes the command."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace: run as root")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", b"net0", IFF_TUN | IFF_NO_PI))
    subprocess.run(
        f"ip link set lo up && ip address add 10.9.0.{rank + 1}/24 dev net0 && ip link set net0 mtu {MTU} txqueuelen 10000 up",
        shell=True,
        check=True,
    )
    socket.send_fds(channel, [b"x"], [tun])
    channel.recv(1)  # until all devices are there
    own = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": 29611}
    os.environ.update({name: str(value) for name, value in own.items()})
    os.environ.update({"MASTER_ADDR": "10.9.0.1", "GLOO_SOCKET_IFNAME": "net0", "OMP_NUM_THREADS": "1"})
    os.execvp(command[0], command)


def carry(tuns, conditions, children):
    """Carries packets until all children have ended."""
    rate, delay = conditions[0]
    rank_of = {tun: rank for rank, tun in enumerate(tuns)}
    free_at = [0.0] * len(tuns)  # when the link of a machine has sent what it was given
    waiting, count, total = [], 0, 0
    status, left, looked = 0, set(children), 0.0
    while left:
        now = time.monotonic()
        if now - looked > 0.05:
            looked = now
            for pid in list(left):
                done, code = os.waitpid(pid, os.WNOHANG)
                if done:
                    left.discard(pid)
                    code = os.waitstatus_to_exitcode(code)
                    status = max(status, 0 if code == 6 else abs(code))
        # select waits for fractions of a millisecond, where poll would have to ask again and again, and take a core from who computes.
        pause = 0.05 if not waiting else max(0.0, min(0.05, waiting[0][0] - now))
        for tun in select.select(tuns, [], [], pause)[0]:
            for _ in range(64):
                try:
                    packet = os.read(tun, 66000)
                except BlockingIOError:
                    break
                if packet[0] >> 4 != 4:
                    continue
                to = packet[19] - 1
                if packet[19] == 250:
                    rate, delay = conditions[packet[-1]]
                    continue
                if not 0 <= to < len(tuns) or packet[16] != 10:
                    continue
                now = time.monotonic()
                source = rank_of[tun]
                free_at[source] = max(now, free_at[source]) + (len(packet) / rate if rate else 0)
                count += 1
                total += len(packet)
                heapq.heappush(waiting, (free_at[source] + delay, count, to, packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, to, packet = heapq.heappop(waiting)
            try:
                os.write(tuns[to], packet)
            except OSError:
                pass  # its machine is gone
    return status, total, count


def main():
    size, command = int(sys.argv[1]), sys.argv[3:]
    conditions = [tuple(float(number) for number in one.split(":")) for one in sys.argv[2].split(",")]
    tuns, children, channels = [], [], []
    for rank in range(size):
        here, there = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            here.close()
            machine(rank, size, command, there)
        children.append(pid)
        _, fds, _, _ = socket.recv_fds(here, 1, 1)
        tuns.append(fds[0])
        channels.append(here)
    for channel in channels:
        channel.send(b"x")
    status, total, count = carry(tuns, conditions, children)
    print(f"BYTES {total}\nPACKETS {count}")
    sys.exit(status)


main()
