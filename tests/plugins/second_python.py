"""One pytest run over two Pythons: GStreamer's tests run in the Python that its bindings belong to.

`--gst-python PYTHON` has pytest of that Python run the selected tests of tests/hosts/gstreamer;
each of its reports is replayed here as that test's own, so the summary, the counts and the exit
code cover both. Where pytest-xdist spreads the tests over processes, one of them runs all of these.
"""

import json
import os
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
from pytest import TestReport

FOLDER = Path(__file__).resolve().parents[1] / "hosts" / "gstreamer"


def pytest_addoption(parser):
    parser.addoption(
        "--gst-python", metavar="PYTHON", help="run tests/hosts/gstreamer by this Python"
    )
    parser.addoption(
        "--reports-to", metavar="FD", type=int, help="write every report there, as lines of JSON"
    )


def pytest_configure(config):
    if (descriptor := config.getoption("--reports-to")) is not None:
        config.pluginmanager.register(Sender(config, descriptor))
    if python := config.getoption("--gst-python"):
        config.pluginmanager.register(Receiver(config, python))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each file's tests stay in one process, for what they share, and so do all of FOLDER's."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return str(FOLDER) if FOLDER in (config.rootpath / file).parents else file

    return Scheduling(config, log)


class Sender:
    def __init__(self, config, descriptor):
        self.config = config
        self.file = os.fdopen(descriptor, "w")

    def pytest_runtest_logreport(self, report):
        print(
            json.dumps(
                self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
            ),
            file=self.file,
            flush=True,
        )


class Receiver:
    def __init__(self, config, python):
        self.config = config
        self.python = python
        self.items = []
        self.process = None
        self.received = defaultdict(list)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        self.items = [item for item in items if FOLDER in item.path.parents]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        if FOLDER not in item.path.parents:
            return None
        if self.process is None:
            self.start()
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self.reports_of(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def start(self):
        reading, writing = os.pipe()
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115  read when the process ends
        self.process = subprocess.Popen(
            [
                self.python,
                "-P",
                "-m",
                "pytest",
                "-q",
                "-p",
                "second_python",
                f"--reports-to={writing}",
                *(item.nodeid for item in self.items),
            ],
            cwd=self.config.rootpath,
            pass_fds=[writing],
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )
        os.close(writing)
        self.pipe = os.fdopen(reading)

    def reports_of(self, item):
        """The reports of one test. Where the other Python ends without them, one that says so: a
        failure.
        """
        received = self.received[item.nodeid]
        while not any(report.when == "teardown" for report in received):
            line = self.pipe.readline()
            if not line:
                self.output.seek(0)
                return [
                    TestReport(
                        item.nodeid,
                        item.location,
                        {},
                        "failed",
                        f"{self.python} did not report this test; "
                        f"exit code {self.process.wait()}, output:\n{self.output.read()[-8000:]}",
                        "call",
                    )
                ]
            report = self.config.hook.pytest_report_from_serializable(
                config=self.config, data=json.loads(line)
            )
            if isinstance(report.longrepr, list):  # of a skipped test; JSON has no tuples
                report.longrepr = tuple(report.longrepr)
            self.received[report.nodeid].append(report)
        return received

    def pytest_unconfigure(self):
        if self.process is not None:
            if self.process.poll() is None:  # this run was stopped before its end
                self.process.terminate()
            self.process.wait()
