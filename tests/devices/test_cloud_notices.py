"""Notices of a cloud, from a server that answers as Google's does."""

import contextlib
import http.server
import json
import socket
import threading
import time
import urllib.parse

import pytest

from jaxsft.devices import cloud_notices
from jaxsft.devices.cloud_notices import Notice, Server, google
from jaxsft.errors import STOPPED, ConfigError
from jaxsft.terminal import signals
from tests.devices.test_distributed import finish, metrics, start
from tests.faults import fault

NONE = {
    "preempted": "FALSE",
    "maintenance-event": "NONE",
    "upcoming-maintenance": '{"error": "no notifications have been received yet"}',
}
WINDOW = {"window_start_time": "2026-12-01T19:00:01Z", "type": "SCHEDULED"}


class Metadata(http.server.ThreadingHTTPServer):
    """Holds a question until the answer changes, when it is asked to."""

    daemon_threads = True

    def __init__(self, values, flavor="Google"):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.values, self.flavor = dict(values), flavor
        self.changed = threading.Condition()
        self.asked = []
        self.trouble = 0  # answers that fail from now on

    @property
    def host(self):
        return f"127.0.0.1:{self.server_address[1]}"

    def put(self, key, value):
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Metadata

    def do_GET(self):
        server, url = self.server, urllib.parse.urlsplit(self.path)
        key = url.path.removeprefix("/computeMetadata/v1/instance/")
        query = dict(urllib.parse.parse_qsl(url.query))
        assert self.headers["Metadata-Flavor"] == "Google"
        server.asked.append(key)
        with server.changed:
            if query.get("wait_for_change") == "true":
                known = query["last_etag"]
                seconds = float(query["timeout_sec"])
                server.changed.wait_for(lambda: etag(server.values.get(key)) != known, seconds)
            value = server.values.get(key, None if key else "attributes/")
            server.trouble -= 1
        code = 503 if server.trouble >= 0 else 404 if value is None else 200
        self.send_response(code)
        self.send_header("Metadata-Flavor", server.flavor)
        self.send_header("ETag", etag(value))
        self.end_headers()
        self.wfile.write(str(value).encode())

    def log_message(self, format, *args):
        pass


def etag(value):
    return f"{hash(value):x}"


@contextlib.contextmanager
def metadata(values=NONE, flavor="Google"):
    server = Metadata(values, flavor)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_cloud_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    monkeypatch.setattr(cloud_notices, "_MACHINE", tmp_path / "product_name")
    monkeypatch.setattr(cloud_notices, "_HOLD_SECONDS", 1)
    monkeypatch.setattr(cloud_notices, "_ROUND_SECONDS", 0.02)
    monkeypatch.setattr(cloud_notices, "_TROUBLE_SECONDS", 0.02)


def wait_for(condition, seconds=30.0):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize(
    ("key", "value", "words", "stops"),
    [
        ("preempted", "TRUE", "takes this machine back", True),
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "stops this machine for", True),
        ("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE", "moves this machine", False),
        (
            "upcoming-maintenance",
            json.dumps({"maintenance_status": "ONGOING"} | WINDOW),
            "has begun",
            True,
        ),
        (
            "upcoming-maintenance",
            json.dumps({"maintenanceStatus": "PENDING"} | WINDOW),
            "from 2026-12-01T19:00:01Z on",
            False,
        ),
    ],
)
def test_each_notice_is_heard_once(monkeypatch, key, value, words, stops):
    heard = []
    with metadata() as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.host)
        with cloud_notices.followed("auto", heard.append):
            wait_for(lambda: server.asked.count("preempted") > 1)
            assert not heard
            server.put(key, value)
            wait_for(lambda: heard)
            asked = server.asked.count(key)
            wait_for(lambda: server.asked.count(key) > asked)
    (notice,) = heard
    assert words in notice.words and notice.stops == stops


def test_a_preemption_is_heard_while_the_question_is_held(monkeypatch):
    monkeypatch.setattr(cloud_notices, "_HOLD_SECONDS", 600)
    heard = []
    with metadata() as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.host)
        with cloud_notices.followed("auto", heard.append):
            wait_for(lambda: server.asked.count("preempted") > 1)
            server.put("preempted", "TRUE")
            wait_for(lambda: heard)
            server.put("preempted", "FALSE")


def first_notices(values):
    """What the first round of questions gives."""
    over = threading.Event()
    with metadata(values) as server:
        cloud = google(Server(server.host), over)
        return [one for one in (next(cloud) for _ in range(4)) if one is not None]


def test_a_maintenance_that_stood_before_the_start_does_not_end_it():
    """It would end each start again, until the machine is stopped at last."""
    (notice,) = first_notices({"preempted": "FALSE", "maintenance-event": "TERMINATE_ON_X"})
    assert "announced before this start" in notice.words and not notice.stops
    (taken,) = first_notices({"preempted": "TRUE", "maintenance-event": "NONE"})
    assert taken == Notice("Google takes this machine back (instance/preempted)", stops=True)


def test_keys_that_a_machine_lacks_are_not_asked_again():
    with metadata({}) as server:
        assert list(google(Server(server.host), threading.Event())) == []
        assert server.asked == ["", *NONE]


def test_trouble_of_the_server_is_waited_for():
    over = threading.Event()
    with metadata() as server:
        cloud = google(Server(server.host), over)
        assert next(cloud) is None
        server.trouble = 5
        server.put("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
        server.put("upcoming-maintenance", json.dumps({"maintenance_status": "PENDING"}))
        heard = [next(cloud) for _ in range(6)]
        assert len([one for one in heard if one is not None]) == 2


def test_a_machine_of_no_cloud_asks_nobody(monkeypatch):
    """A laptop's resolver or network may hang for minutes."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("asked the network"))
    threads = threading.active_count()
    for which in ("auto", "off"):
        with cloud_notices.followed(which, pytest.fail):
            assert threading.active_count() == threads
    cloud_notices._MACHINE.write_text("20XWCTO1WW\n")
    assert not cloud_notices._may_be_google()
    cloud_notices._MACHINE.write_text("Google Compute Engine\n")
    assert cloud_notices._may_be_google()


@pytest.mark.parametrize("flavor", ["Google", "other"])
def test_a_cloud_that_is_named_must_answer(monkeypatch, flavor):
    with metadata(flavor=flavor) as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.host)
        if flavor == "Google":
            with cloud_notices.followed("gce", lambda _: None):
                return
        refused = f"--cloud_notices=gce: no metadata server answers at {server.host}"
        with pytest.raises(ConfigError, match=refused), cloud_notices.followed("gce", pytest.fail):
            pytest.fail("went on")


@fault(
    "stopping",
    "the cloud says that it takes the machine of one of several processes back",
    "as a signal to that process: all save after the same step, and say which notice it was",
    lost="nothing",
    code=75,
)
@pytest.mark.slow
def test_a_notice_to_one_process_stops_all_after_the_same_step(tmp_path):
    """The signal that follows the notice, before the save is done, is not taken for a second."""
    with metadata() as server:
        processes = start(
            tmp_path,
            2,
            *("--config.train.steps=2000", "--config.eval.every_steps=None"),
            own_surroundings={"GCE_METADATA_HOST": server.host},
        )
        wait_for(lambda: (tmp_path / "metrics.jsonl").is_file() and len(metrics(tmp_path)) > 3, 120)
        server.put("preempted", "TRUE")
        said = "Google takes this machine back"
        assert processes[1].stderr is not None
        line = next(line for line in processes[1].stderr if said in line)
        assert line.startswith("cloud      ")
        processes[1].send_signal(signals.ALL[0])
        done = finish(processes)
    assert [code for code, _, _ in done] == [STOPPED] * 2, done
    ends = {error.splitlines()[-1] for _, _, error in done}
    assert len(ends) == 1 and f"a notice ({said}" in ends.pop()
    assert all("which is saved" in error for _, _, error in done)
