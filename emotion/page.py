"""A page to try a classifier on, in a browser: predict.py --serve."""

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import utils
from emotion.checkpoint import INSTALL


def serve(load: Callable[[], Callable[..., Any]], name: str, host: str, port: int) -> None:
    """Show a page, and answer its programming interface, until the process is interrupted.

    Args:
        load: gives what `predict.load` does; called once it is sure that a page can be shown.
        name: of the checkpoint, shown at the top.

    Raises:
        utils.InputError: gradio is not installed, or the address is not to be had.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it asks for news when it is imported
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    os.environ["no_proxy"] = f"{direct},localhost,127.0.0.1,{host}"  # it looks at its own page
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise utils.InputError(f"--serve: needs {error.name}; {INSTALL}") from None
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        told = f"--serve: {host}, port {port}: {error.strerror}"
        raise utils.InputError(f"{told}; give another port, or --host") from None
    classify = load()

    def answer(text: str | None, target: str | None) -> tuple[str, dict[str, float] | None]:
        [found] = classify([text or ""], [target or None])
        is_blank = None in found["scores"].values()
        return ", ".join(found["emotions"]) or "none", None if is_blank else found["scores"]

    page = gradio.Interface(
        answer,
        [
            gradio.Textbox(label="text", lines=3, placeholder="오늘 공연 너무 좋았다"),
            gradio.Textbox(label="target (may be empty)", placeholder="공연"),
        ],
        [gradio.Textbox(label="emotions"), gradio.Label(label="probabilities", show_heading=False)],
        title=name,
        flagging_mode="never",
        analytics_enabled=False,
        api_name="predict",  # no batch: a broken request would spoil those beside it
    )
    kept = {"share": False, "run_history": False, "max_file_size": 1}  # nothing leaves, or is kept
    given = {"server_name": host, "server_port": port, "footer_links": ["api"]} | kept
    try:
        page.launch(quiet=True, show_error=True, prevent_thread_lock=True, **given)
    except OSError as error:
        told = f"port {port} cannot be had on 127.0.0.1, where gradio tries it for any --host"
        raise utils.InputError(f"--serve: {told}; give another port") from error
    print(f"{page.local_url} is the page; Ctrl+C ends it", flush=True)
    while True:  # an event's wait hears no Ctrl+C on Windows
        time.sleep(3600)
