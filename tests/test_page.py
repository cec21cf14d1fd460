"""predict.py --serve, as a browser and as programs use it."""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from conftest import EMOTIONS, ROOT, assert_refused, call, run_script

import predict

pytest.importorskip("gradio", reason="the page is made with gradio, of requirements-extra.txt")

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def run(small):
    return small.undisturbed("bert_plain.py")


@pytest.fixture(scope="module")
def address(run):
    """A page of that run."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "predict.py"), run, "--serve", port]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes["env"] = os.environ | {"HTTP_PROXY": "http://127.0.0.1:9"}  # where nothing answers
    with subprocess.Popen(list(map(str, command)), **pipes) as server:
        try:
            told = server.stdout.readline()
            assert told == f"http://127.0.0.1:{port}/ is the page; Ctrl+C ends it\n"
            yield told.partition(" ")[0]
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 130
        finally:
            server.kill()


def test_a_port_that_gradio_refuses_is_told(run):
    """It asks 127.0.0.1 for the port, whatever the host is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        try:
            socket.create_server(("127.0.0.2", port)).close()
        except OSError:
            pytest.skip("there is no second local address here")
        outcome = call("predict.py", run, "--serve", port, "--host", "127.0.0.2")
    assert_refused(
        outcome, f"--serve: port {port} cannot be had on 127.0.0.1", "give another port\n"
    )


def post(address, body):
    """What the programming interface answers: the event, and its data."""
    url = f"{address}gradio_api/call/predict"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with DIRECT.open(request) as answer:
        event = json.load(answer)["event_id"]
    with DIRECT.open(f"{url}/{event}") as answer:
        name, data = answer.read().decode().splitlines()[:2]
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def ask(address, text, target=""):
    event, [emotions, shown] = post(address, json.dumps({"data": [text, target]}).encode())
    assert event == "complete"
    return emotions, {each["label"]: each["confidence"] for each in shown.get("confidences", [])}


def test_it_answers_what_load_does(address, run):
    found = predict.load(run)(["오늘 급식 최고"], ["급식"])[0]
    emotions, scores = ask(address, "오늘 급식 최고", "급식")
    assert emotions == (", ".join(found["emotions"]) or "none")
    assert scores == found["scores"] and scores.keys() == {*EMOTIONS}
    assert ask(address, " \u3164") == ("none", {})
    assert ask(address, "급식 " * 150_000)[1].keys() == {*EMOTIONS}  # a megabyte


def test_a_broken_request_is_answered_and_spoils_no_other(address):
    with pytest.raises(urllib.error.HTTPError, match="422"):
        post(address, b"{nope")
    bodies = [{"data": ["가"]} if n % 4 == 0 else {"data": [f"급식 {n}", ""]} for n in range(12)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        given = (json.dumps(body).encode() for body in bodies)
        events = [event for event, _ in pool.map(lambda body: post(address, body), given)]
    assert events == ["error" if n % 4 == 0 else "complete" for n in range(12)]


def test_the_page_fetches_nothing_from_elsewhere(address):
    with DIRECT.open(address) as answer:
        page = answer.read().decode()
    settings = json.loads(page.partition("window.gradio_config = ")[2].partition(";</script>")[0])
    assert settings["analytics_enabled"] is False
    assert settings["run_history"] is False
    assert "googleapis" not in page and "cdnjs" not in page


def test_nothing_can_be_left_on_the_server(address):
    form = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nabc\r\n--x--\r\n'
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises(urllib.error.HTTPError, match="413"):
        DIRECT.open(urllib.request.Request(f"{address}gradio_api/upload", form, kind))


def test_what_does_not_fit_is_refused(address, run):
    port = address.strip("/").rpartition(":")[2]
    assert_refused(run_script("predict.py", run, "--serve", port), "Address already in use")
    assert_refused(call("predict.py", run, "--serve", "80a"), "argument --serve")
    assert_refused(call("predict.py", run, "글", "--serve"), "--serve: a sentence is not for a")
    assert_refused(call("predict.py", run, "--serve", "--input", "a.csv"), "--input is not for a")
    assert_refused(call("predict.py", run, "글", "--host", "0.0.0.0"), "give --serve too")
