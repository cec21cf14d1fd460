"""The page of predict.py --serve under load: latency of its programming interface.

    python tests/benchmarks/page_load.py --checkpoint DIR --texts FILE [--requests 256]

Starts the page, and asks it about lines of a corpus file by 1, 8 and 32 clients at once, each of
which waits for its answer before it asks again.
"""

import argparse
import concurrent.futures
import itertools
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np

import utils
from emotion import cli

PORT = 7861
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
URL = f"http://127.0.0.1:{PORT}/gradio_api/call/predict"


def ask(text: str) -> float:
    """Seconds from a question to its answer."""
    began = time.perf_counter()
    body = json.dumps({"data": [text, ""]}).encode()
    request = urllib.request.Request(URL, body, {"Content-Type": "application/json"})
    with DIRECT.open(request) as answer:
        event = json.load(answer)["event_id"]
    with DIRECT.open(f"{URL}/{event}") as answer:
        told = answer.read().decode()
    if "event: complete" not in told:
        raise RuntimeError(told)
    return time.perf_counter() - began


def main() -> None:
    """Parse the command line."""
    parser = cli.ArgumentParser("page_load.py", __doc__)
    parser.add_argument("--checkpoint", required=True, help="a directory")
    parser.add_argument("--texts", type=Path, required=True, help="a corpus file")
    cli.count(parser, "--requests", 256, "for each number of clients")
    cli.run_tool(parser, show, None)


def show(options: argparse.Namespace) -> None:
    """Print a row for each number of clients."""
    forms = itertools.cycle(row["input"]["form"] for row in utils.iter_corpus(options.texts))
    command = [sys.executable, str(ROOT / "predict.py"), options.checkpoint, "--serve", str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            server.stdout.readline()  # type: ignore[union-attr]
            ask("준비")
            print("| clients | median, ms | 95 %, ms | requests/s |\n| --- | --- | --- | --- |")
            for clients in (1, 8, 32):
                began = time.perf_counter()
                with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                    took = list(pool.map(ask, itertools.islice(forms, options.requests)))
                rate = len(took) / (time.perf_counter() - began)
                median, high = np.percentile(took, (50, 95)) * 1000
                print(f"| {clients} | {median:.0f} | {high:.0f} | {rate:.0f} |", flush=True)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
