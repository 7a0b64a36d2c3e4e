"""Ranks that this program starts itself, and what becomes of them."""

import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import Popen, TimeoutExpired

from lib.doctor import runner
from lib.doctor.finding import FAIL, OK, Finding
from lib.doctor.order import Order

RANKS = 2
START_S = 15.0  # to import torch, on two cores with other work


def here(order: Order) -> Finding:
    """Start ranks on this machine; one that hangs, dies or sums wrongly is named."""
    with tempfile.TemporaryDirectory() as own, runner.SIDE_BY_SIDE:
        asked = asdict(replace(order, store=str(Path(own) / "store")))
        limit_s = order.limit_s + START_S
        ranks = []
        try:
            for rank in range(RANKS):
                words = {"rank": rank, "size": RANKS, "order": asked}
                ranks.append(runner.start("exchange.rank", words, limit_s))
            return _joined(ranks, time.monotonic() + limit_s)
        finally:
            for process in ranks:
                runner.kill(process)
                process.wait()


def _joined(ranks: list[Popen[str]], deadline_s: float) -> Finding:
    """What they say together: of one that died the others only know that somebody is gone."""
    said, found = [], []
    for rank, process in enumerate(ranks):
        try:
            out, err = process.communicate(timeout=max(0.1, deadline_s - time.monotonic()))
        except TimeoutExpired:
            said.append(f"rank {rank} hangs")
            continue
        finding = runner.read(out)
        if finding is None:
            said.append(f"rank {rank}: {runner.ending(process.returncode, err)}")
        else:
            found.append(finding)
    failed = [finding for finding in found if finding.status == FAIL]
    failed.sort(key=lambda finding: "late" not in finding.facts)  # what others notice comes of its end
    if said:
        others = f" ({failed[0].seen})" if failed else ""
        advice = failed[0].advice if failed else "the same command again, beside no other work"
        return Finding("network", FAIL, f"{'; '.join(said)}{others}", advice, {"ended": said})
    return failed[0] if failed else next(finding for finding in found if finding.status == OK)
