"""``service history|diff|rollback --to|promote|abort`` and ``inspect --pretty`` against a served node."""

from __future__ import annotations

from api_node import FakeCluster
from cli_run import Run

from swarmpy.cli.progress import judge


def made(run: Run) -> None:
    assert run("service", "create", "-d", "--name", "web", "--replicas", "2", "-e", "A=1", "host").code == 0
    assert run("service", "update", "-d", "--env-add", "A=2", "--update-delay", "3s", "web").code == 0
    assert run("service", "update", "-d", "--label-add", "x=y", "web").code == 0


def test_history_and_differences(run: Run, cluster: FakeCluster) -> None:
    made(run)
    shown = run("service", "history", "--format", "{{.Number}}|{{.Mark}}|{{.Changes}}", "web")
    assert (shown.code, shown.lines) == (
        0,
        [
            "3|current|+label x y",
            "2|previous|env A 1 → 2, +update-delay 3s, +update-parallelism 1",
            "1||created",
        ],
    )
    assert run("service", "history", "-q", "web").out.split() == ["3", "2", "1"]
    assert run("service", "diff", "web").lines[0] == "web: revision 2 → 3"
    assert run("service", "diff", "web", "2", "2").out == "web: revision 2 → 2\nno difference\n"
    refused = run("service", "diff", "web", "7")
    assert (refused.code, refused.err) == (
        1,
        "Error: revision 7 of service web is not kept: give one of 1, 2, 3\n",
    )


def test_a_service_of_one_revision_has_nothing_to_compare(run: Run, cluster: FakeCluster) -> None:
    run("service", "create", "-d", "--name", "web", "host")
    assert "has one revision only" in run("service", "diff", "web").err


def test_rollback_to_a_revision(run: Run, cluster: FakeCluster) -> None:
    made(run)
    assert run("service", "rollback", "-d", "--to", "1", "web").out == "web\n"
    assert "is at revision 1 already" in run("service", "rollback", "-d", "--to", "1", "web").err
    assert run("service", "rollback", "-d", "--to", "0", "web").code == 2
    assert run("service", "update", "--rollback", "--force", "web").code == 2
    pretty = run("service", "inspect", "--pretty", "web").out
    assert " State:\t\trollback_started\n" in pretty
    assert " Message:\tmanually requested rollback\n" in pretty
    assert " Replicas:\t2\n" in pretty
    assert run("service", "inspect", "--pretty", "--format", "x", "web").code == 2


def test_words_about_no_update(run: Run, cluster: FakeCluster) -> None:
    run("service", "create", "-d", "--name", "web", "host")
    for verb in ("promote", "resume"):
        assert "has no paused update to go on with: there is none" in run("service", verb, "-d", "web").err
    assert "has no update to abort: there is none" in run("service", "abort", "-d", "web").err


def test_a_canary_that_waits_ends_the_waiting_without_a_failure() -> None:
    def picture(message: str) -> tuple[str, str]:
        status = {"State": "paused", "Message": message}
        service = {"Spec": {"Mode": {"Replicated": {"Replicas": 2}}}, "UpdateStatus": status}
        seen = judge(service, [], [])
        return seen.failure, seen.pause

    canary = 'update paused after 1 of 2 tasks: "swarmpy service promote web" …'
    assert picture(canary) == ("", f"service update paused: {canary}")
    failed = "update paused due to failure or early termination of task x"
    assert picture(failed) == (f"service update paused: {failed}", "")
