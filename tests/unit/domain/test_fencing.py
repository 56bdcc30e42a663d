"""The way of a fencing: request, off, confirmation, record; and every way in which it does not get there."""

from __future__ import annotations

from controller.api.xennode import XenNodeStatus
from controller.domain.actions import Decision
from controller.domain.conditions import seconds
from controller.domain.power import PowerResult
from tests.unit.domain.lost_host import answered, begun, decide, events, lost, node, offs, questions, step, third
from tests.unit.domain.worlds import Worlds, conditions, host_state, howto


def status(decision: Decision) -> XenNodeStatus:
    assert isinstance(decision.status, XenNodeStatus)
    return decision.status


# --- the request and the record -------------------------------------------------------------------------------------


def test_the_request_is_in_the_status_of_the_same_decision_that_asks_the_fence_agent():
    decision = decide(lost())
    request = status(decision).fencing
    assert request is not None
    (command,) = offs(decision)
    assert (command.operation, command.attempt) == (request.operation, request.attempt)
    assert (request.boot_id, len(status(decision).fencings)) == ("boot-mk1", 1)
    assert decision.lazy == 0.0  # an intent does not wait
    assert "Fencing" in events(decision)


def test_a_confirmed_off_is_recorded_with_its_boot():
    worlds, command = begun()
    answered(worlds, command, "off", said="fence_test: off: Success; status: Status: OFF")
    decision = step(worlds)
    fenced = status(decision).fenced
    assert fenced is not None
    assert (fenced.boot_id, fenced.operation, fenced.contradicted_at) == ("boot-mk1", command.operation, None)
    assert "Status: OFF" in fenced.evidence
    assert status(decision).fencing is None
    assert decision.lazy == 0.0
    assert worlds.world.objects.host("mk1").off
    assert "Fenced" in events(decision)
    told = decide(worlds)
    assert offs(told) == []
    assert (conditions(told)["Ready"].reason, conditions(told)["Fenced"].status) == ("Fenced", "True")
    assert status(told).phase == "Fenced"


def test_a_run_is_waited_for():
    worlds, command = begun()
    worlds.power[command] = PowerResult("running", worlds.now)
    decision = step(worlds)
    assert offs(decision) == []
    assert status(decision).fencing is not None
    assert not worlds.world.objects.host("mk1").off


def test_a_failed_attempt_is_no_evidence_and_is_made_again_later():
    worlds, command = begun()
    answered(worlds, command, "failed", reason="AgentFailed", said="fence_test off ended with 1: login refused")
    decision = step(worlds)
    assert status(decision).fenced is None
    assert offs(decision) == []
    assert "FencingFailed" in events(decision)
    assert conditions(decision)["Fenced"].reason == "FencingFailed"
    assert "login refused" in conditions(decision)["Fenced"].message
    assert offs(step(worlds)) == []
    worlds.now += 10
    (again,) = offs(step(worlds))
    assert (again.operation, again.attempt) == (command.operation, 2)


def test_attempts_come_less_often():
    worlds, command = begun()
    waits = []
    for _ in range(8):
        answered(worlds, command, "failed", reason="TimedOut", said="x")
        request = status(step(worlds)).fencing
        assert request is not None
        waits.append(seconds(request.not_before) - worlds.now)
        worlds.now += 301
        (command,) = offs(step(worlds))
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]


def test_a_host_that_is_on_after_off_is_not_off():
    worlds, command = begun()
    answered(worlds, command, "on", said="status: on")
    assert status(step(worlds)).fenced is None


def test_another_controller_goes_on_with_the_request_that_it_finds_once_it_has_listened_itself():
    worlds, command = begun()
    worlds.power.clear()
    worlds.hosts["mk1"].silent = 3.0  # it has just begun to listen
    decision = step(worlds)
    assert offs(decision) == []
    assert status(decision).fencing is not None
    worlds.hosts["mk1"].silent = 61.0
    assert offs(step(worlds)) == [command]


# --- the host is heard of -------------------------------------------------------------------------------------------


def test_a_host_that_answers_before_it_was_asked_to_go_is_let_live():
    worlds, _ = begun()
    worlds.hosts["mk1"].connected, worlds.hosts["mk1"].silent = True, 0.0
    decision = step(worlds)
    assert status(decision).fencing is None
    assert offs(decision) == []
    assert "FencingGivenUp" in events(decision)


def test_a_host_that_was_heard_while_the_attempt_ran_is_not_recorded_as_off():
    worlds, command = begun()
    answered(worlds, command, "off", said="off")
    worlds.hosts["mk1"].silent = 2.0
    decision = step(worlds)
    assert status(decision).fenced is None
    request = status(decision).fencing
    assert request is not None
    assert request.attempt == 2


def test_a_host_that_answers_in_the_same_boot_after_it_was_confirmed_off_is_a_contradiction():
    worlds, command = begun()
    answered(worlds, command, "off", said="off")
    worlds.hosts["mk1"].connected, worlds.hosts["mk1"].silent = True, 0.0
    decision = step(worlds)
    fenced = status(decision).fenced
    assert fenced is not None
    assert fenced.contradicted_at is not None
    assert conditions(decision)["Stalled"].reason == "FencedButAlive"


def test_a_host_that_answered_only_before_the_confirmation_is_looked_at_again():
    worlds, command = begun()
    answered(worlds, command, "off", said="off")
    worlds.hosts["mk1"].connected, worlds.hosts["mk1"].silent = True, 1.5  # confirmed 1 s ago
    decision = step(worlds)
    assert status(decision).fenced is None
    assert status(decision).fencing is not None
    assert decision.look_again == 1.0


def fenced() -> Worlds:
    worlds, command = begun()
    answered(worlds, command, "off", said="fence_test: off")
    step(worlds)
    assert worlds.world.objects.host("mk1").off
    return worlds


def test_the_record_ends_when_the_host_answers_in_another_boot():
    worlds = fenced()
    worlds.hosts["mk1"].state = host_state("mk1").model_copy(update={"boot_id": "another"})
    worlds.hosts["mk1"].connected, worlds.hosts["mk1"].heard = True, 1
    assert not worlds.world.objects.host("mk1").off
    decision = step(worlds)
    assert status(decision).fenced is None
    assert "CameBack" in events(decision)
    assert "Fenced" not in conditions(decision)


def test_fenced_but_alive_is_stalled_and_stays_so_when_the_host_falls_silent_again():
    worlds = fenced()
    worlds.hosts["mk1"].connected, worlds.hosts["mk1"].heard, worlds.hosts["mk1"].silent = True, 1, 0.0
    decision = step(worlds)
    assert conditions(decision)["Stalled"].reason == "FencedButAlive"
    assert "FencedButAlive" in events(decision)
    assert "FencedButAlive" not in events(decide(worlds))
    worlds.hosts["mk1"].connected, worlds.hosts["mk1"].silent = False, 1000.0
    assert not worlds.world.objects.host("mk1").off
    decision = step(worlds)
    assert offs(decision) == []
    assert conditions(decision)["Fenced"].reason == "FencedButAlive"


def test_a_host_that_spoke_once_unnoticed_after_its_record_is_not_off():
    worlds = fenced()
    worlds.hosts["mk1"].heard = 1
    assert not worlds.world.objects.host("mk1").off
    found = status(step(worlds)).fenced
    assert found is not None
    assert found.contradicted_at is not None


def test_a_person_who_corrects_spec_fencing_ends_the_contradiction():
    worlds = fenced()
    worlds.hosts["mk1"].connected, worlds.hosts["mk1"].heard = True, 1
    step(worlds)
    worlds.edit("XenNode", "mk1", fencing={"agent": "fence_test", "parameters": {"ip": "10.0.1.99"}})
    decision = step(worlds)
    assert status(decision).fenced is None
    assert "Stalled" not in conditions(decision)
    assert status(decision).fencing_device == ""


def test_a_fencing_ends_when_its_device_is_changed():
    worlds, _ = begun()
    worlds.edit("XenNode", "mk1", fencing={"agent": "fence_test", "parameters": {"ip": "10.0.1.99"}})
    decision = step(worlds)
    assert offs(decision) == []
    assert status(decision).fencing is None


def test_what_stands_in_the_way_is_told():
    worlds = lost()
    worlds.hosts["mk2"].connected = False
    decision = decide(worlds)
    assert conditions(decision)["Fenced"].reason == "NobodyElseAnswers"
    assert "NobodyElseAnswers" in events(decision)
    worlds = lost()
    worlds.edit("XenNode", "mk1", fencing=None)
    assert "outOfService" in conditions(decide(worlds))["Fenced"].message


# --- the test of the fence agent ------------------------------------------------------------------------------------


def living() -> Worlds:
    worlds = howto(running=True)
    worlds.edit("XenNode", "mk1", fencing={"agent": "fence_test"})
    return worlds


def test_a_host_without_fencing_has_no_such_condition():
    decision = decide(howto(running=True))
    assert "FencingReady" not in conditions(decision)
    assert decision.power == ()


def test_a_fence_agent_is_tested_at_once_and_then_now_and_then():
    worlds = living()
    decision = step(worlds)
    assert conditions(decision)["FencingReady"].status == "Unknown"
    (question,) = questions(decision)
    answered(worlds, question, "on")
    worlds.hosts["mk1"].silent = 0.0
    decision = step(worlds)
    assert questions(decision) == []
    assert conditions(decision)["FencingReady"].status == "True"
    worlds.now += 598
    assert questions(decide(worlds)) == []
    worlds.now += 1
    assert questions(step(worlds)) == [question]


def test_a_device_is_proved_by_saying_on_of_a_host_that_answers():
    worlds = living()
    (question,) = questions(step(worlds))
    answered(worlds, question, "on")
    device = status(step(worlds)).fencing_device
    fencing = node(worlds).spec.fencing
    assert fencing is not None
    assert device == fencing.device


def test_a_device_that_says_on_of_a_host_that_does_not_answer_proves_nothing():
    worlds = living()
    (question,) = questions(step(worlds))
    worlds.hosts["mk1"].connected = False
    answered(worlds, question, "on")
    assert status(step(worlds)).fencing_device == ""


def test_a_device_that_says_off_of_a_host_that_answers_is_another_machines():
    worlds = living()
    (question,) = questions(step(worlds))
    answered(worlds, question, "on")
    step(worlds)
    answered(worlds, question, "off")
    worlds.hosts["mk1"].silent = 0.0
    decision = step(worlds)
    ready = conditions(decision)["FencingReady"]
    assert (ready.status, ready.reason) == ("False", "SaysOff")
    assert status(decision).fencing_device == ""
    assert "SaysOff" in events(decision)


def test_a_host_that_was_just_switched_off_does_not_make_its_device_a_liar():
    worlds = living()
    (question,) = questions(step(worlds))
    answered(worlds, question, "on")
    step(worlds)
    answered(worlds, question, "off")
    worlds.hosts["mk1"].silent = 2.0  # nothing heard since
    decision = step(worlds)
    assert conditions(decision)["FencingReady"].status == "True"
    assert status(decision).fencing_device != ""


def test_a_fence_agent_that_cannot_be_asked_is_told_with_its_reason():
    worlds = living()
    (question,) = questions(step(worlds))
    answered(worlds, question, "failed", reason="SecretMissing", said="there is no Secret mk1-bmc")
    decision = step(worlds)
    ready = conditions(decision)["FencingReady"]
    assert (ready.status, ready.reason, ready.message) == ("False", "SecretMissing", "there is no Secret mk1-bmc")
    assert "SecretMissing" in events(decision)
    assert events(decide(worlds)) == []


def test_another_device_must_prove_itself_anew():
    worlds = living()
    (question,) = questions(step(worlds))
    answered(worlds, question, "on")
    step(worlds)
    worlds.edit("XenNode", "mk1", fencing={"agent": "fence_other"})
    decision = step(worlds)
    assert status(decision).fencing_device == ""
    assert questions(decision) != [question]


def test_a_host_that_fell_silent_in_the_run_may_be_what_was_switched_off() -> None:
    worlds = lost()
    third(worlds)
    (command,) = offs(step(worlds))
    answered(worlds, command, "off", said="fence_test: off: Success; status: Status: OFF")
    worlds.hosts["mk3"].connected, worlds.hosts["mk3"].silent = False, 3.5
    decision = step(worlds)
    assert decision.status.fenced is None
    assert conditions(decision)["Fenced"].reason == "AnotherFellSilent"
    worlds.now, worlds.hosts["mk3"].silent = worlds.now + 600, 603.5
    worlds.hosts["mk1"].silent += 600
    assert step(worlds).status.fenced is None  # time proves nothing
    worlds.hosts["mk3"].connected, worlds.hosts["mk3"].silent = True, 0.0
    assert step(worlds).status.fenced is not None


def test_the_next_controller_knows_which_hosts_answered_before_the_run() -> None:
    """The first one was killed in its run, which switched mk3 off; the second one never heard mk3."""
    worlds = lost()
    third(worlds)
    decision = step(worlds)
    assert decision.status.fencing.answering == ("mk2", "mk3")
    worlds.now += 300
    worlds.hosts["mk3"].connected, worlds.hosts["mk3"].silent = False, 300.0
    worlds.hosts["mk1"].silent += 300
    (command,) = offs(decision)
    answered(worlds, command, "off", said="fence_test: off: Success: Already OFF; status: Status: OFF")
    decision = step(worlds)
    assert decision.status.fenced is None
    assert conditions(decision)["Fenced"].reason == "AnotherFellSilent"
