"""By which network interface this machine talks to the others, and what to set when it is the wrong one."""

import fcntl
import os
import socket
import struct
from typing import Any

from lib.base import ranks

GET_ADDRESS = 0x8915  # SIOCGIFADDR
CHOICES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE")

CHANGED = "numbers change on their way: NCCL_P2P_DISABLE=1 if these are GPUs, or take another machine"


def addresses() -> dict[str, str]:
    """Interface -> its IPv4 address, those that have one."""
    there = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking.fileno(), GET_ADDRESS, struct.pack("256s", name[:15].encode()))
            except OSError:  # it has no address
                continue
            there[name] = socket.inet_ntoa(answer[20:24])
    return there


def of_this_machine(store: str | None) -> dict[str, Any]:
    """Facts: the interfaces, what is chosen by variables, the address that this machine's name stands for
    (gloo's and nccl's ranks are found by it when nobody chooses), and the one that leads to the master."""
    try:
        own = socket.gethostbyname(socket.gethostname())
    except OSError:
        own = None
    chosen = {name: os.environ[name] for name in CHOICES if name in os.environ}
    return {"interfaces": addresses(), "own_address": own, "chosen": chosen, "way": way_to(_host(store))}


def master(store: str | None) -> str | None:
    """host:port where the ranks find each other. None: by a file of this machine."""
    return None if store else ranks.meeting_place()


def _host(store: str | None) -> str | None:
    there = master(store)
    return there.rpartition(":")[0] if there else None


def way_to(host: str | None) -> str | None:
    """ "eth0 10.0.0.2": the interface by which the system would send to this host, and its address."""
    if host is None:
        return None
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect((host, 9))  # sends nothing
            address = asking.getsockname()[0]
    except OSError:
        return None
    name = next((name for name, own in addresses().items() if own == address), "an interface")
    return f"{name} {address}"


def in_words(facts: dict[str, Any]) -> str:
    """By which way this rank exchanges."""
    words = [f"{name}={value}" for name, value in facts["chosen"].items()]
    if facts["master"] is not None:
        words += [f"master {facts['master']} by {facts['way'] or 'no way that is known'}"]
    own = facts["own_address"]
    return ", ".join([*words, f"its name leads to {own}" if own else "its name leads nowhere"])


def advice(facts: dict[str, Any]) -> str:
    """What to set when ranks do not hear each other."""
    backend, there = facts["backend"], facts["interfaces"]
    others = {name: address for name, address in there.items() if not address.startswith("127.")}
    listed = ", ".join(f"{name} {address}" for name, address in (others or there).items()) or "none"
    # ranks of one machine find each other by its loopback, whatever the network is like
    first = "lo" if facts["master"] is None else next(iter(others or there), "eth0")
    away = facts["master"] is not None and not str(facts["master"]).startswith(("127.", "localhost"))
    loops = ""
    if away and (facts["own_address"] or "127.").startswith("127."):
        loops = f"this machine's name leads to {facts['own_address']}, where no other machine finds it: "
    variable = "NCCL_SOCKET_IFNAME" if backend == "nccl" else "GLOO_SOCKET_IFNAME"
    words = f"{loops}export {variable}={first} here, and its own on every machine (here: {listed})"
    if facts["master"] is None:
        words = f"export {variable}={first} (interfaces here: {listed})"
    if backend == "nccl":
        words += "; NCCL_DEBUG=INFO says where it stops; between GPUs of one machine NCCL_P2P_DISABLE=1"
    return words + ("; let the machines reach each other on all ports" if away else "")
