"""Predicates and balancers."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioregistry import choosing
from aioregistry.catalogue import MAX_PREDICATES, Catalogue
from aioregistry.choosing import (
    Balancer,
    LeastPending,
    Predicate,
    Random,
    Rendezvous,
    RoundRobin,
    Weighted,
    all_of,
    any_of,
    local,
    metadata,
    negate,
    not_critical,
    passing,
    version,
)
from aioregistry.service import Service, Status
from aioregistry.wire import Announcement

if TYPE_CHECKING:
    from collections.abc import Callable


def instance(number: int = 0, **fields: Any) -> Service:
    return Service(name="orders", address=f"10.0.0.{number}:80", **fields)


def instances(count: int) -> tuple[Service, ...]:
    return tuple(instance(number) for number in range(count))


def versioned(text: str) -> Service:
    return instance(version=text)


def never(_service: Service) -> bool:
    return False


async def soon(_service: Service) -> bool:
    return False


class Soon:
    """A predicate that would have to be awaited."""

    async def __call__(self, _service: Service) -> bool:
        return False


class TestPredicates:
    @pytest.mark.parametrize(
        ("status", "is_passing", "is_not_critical"),
        [
            (Status.PASSING, True, True),
            (Status.WARNING, False, True),
            (Status.CRITICAL, False, False),
        ],
    )
    def test_status(self, status: Status, *, is_passing: bool, is_not_critical: bool) -> None:
        assert passing(instance(status=status)) is is_passing
        assert not_critical(instance(status=status)) is is_not_critical

    def test_local(self) -> None:
        assert local("node-7")(instance(host="node-7"))
        assert not local("node-7")(instance(host="node-8"))
        assert not local("node-7")(instance())

    def test_local_is_this_machine_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("socket.gethostname", lambda: "node-7")
        assert local() == local("node-7")
        assert local()(instance(host="node-7"))

    def test_metadata(self) -> None:
        service = instance(metadata={"zone": "eu", "tier": "gold", "k8s.io/zone": "1"})
        assert metadata(zone="eu")(service)
        assert metadata(zone="eu", tier="gold")(service)
        assert metadata({"k8s.io/zone": "1"}, zone="eu")(service)
        assert not metadata(zone="us")(service)
        assert not metadata(zone="eu", tier="silver")(service)
        assert not metadata(color="red")(service)
        assert not metadata(zone="eu")(instance())
        assert metadata()(instance())

    @pytest.mark.parametrize("pairs", [{"port": 80}, {1: "a"}, {"a": None}])
    def test_metadata_that_can_never_match(self, pairs: dict[Any, Any]) -> None:
        with pytest.raises(TypeError, match="metadata is strings to strings"):
            metadata(pairs)

    @pytest.mark.parametrize(
        ("given", "remedy"),
        [
            *[(value, "write one such as passing") for value in (None, "passing", [passing])],
            (soon, "write a plain function"),
            (Soon(), "write a plain function"),
            (functools.partial(soon), "write a plain function"),
            (local, r"write local\(\.\.\.\)"),
            (metadata, r"write metadata\(\.\.\.\)"),
        ],
        ids=lambda value: re.sub(" at 0x.*", "", repr(value))[:30],
    )
    def test_what_is_no_predicate_is_refused_when_it_is_combined(
        self, given: Any, remedy: str
    ) -> None:
        for make in (all_of, any_of, negate):
            with pytest.raises(TypeError, match=rf"{make.__name__}\(\) takes .*{remedy}") as caught:
                make(given)
            assert repr(given) in str(caught.value)
        with pytest.raises(TypeError, match=remedy):
            all_of(passing, given)

    def test_combinations(self) -> None:
        zone, tier = metadata(zone="eu"), metadata(tier="gold")
        both = instance(metadata={"zone": "eu", "tier": "gold"})
        one = instance(metadata={"zone": "eu"})
        assert all_of(zone, tier)(both)
        assert not all_of(zone, tier)(one)
        assert any_of(zone, tier)(one)
        assert not any_of(zone, tier)(instance())
        assert negate(zone)(instance())
        assert not negate(zone)(one)
        assert all_of()(one)
        assert not any_of()(one)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: local("node-7"),
            lambda: metadata(zone="eu", tier="gold"),
            lambda: version(">=1.2,<2"),
            lambda: all_of(passing, metadata(zone="eu")),
            lambda: any_of(passing, metadata(zone="eu")),
            lambda: negate(metadata(zone="eu")),
        ],
    )
    def test_written_twice_is_the_same_question(self, make: Callable[[], Predicate]) -> None:
        first, second = make(), make()
        assert first is not second
        assert first == second
        assert hash(first) == hash(second)

    def test_the_order_of_pairs_does_not_matter(self) -> None:
        assert metadata(a="1", b="2") == metadata(b="2", a="1") == metadata({"b": "2"}, a="1")

    def test_different_questions_differ(self) -> None:
        questions: list[Predicate] = [
            passing,
            not_critical,
            local("a"),
            local("b"),
            metadata(a="1"),
            metadata(a="2"),
            metadata(b="1"),
            version("==1.0"),
            version("==1"),
            all_of(passing),
            any_of(passing),
            negate(passing),
            all_of(passing, not_critical),
            all_of(not_critical, passing),
        ]
        assert len(set(questions)) == len(questions)

    @pytest.mark.parametrize(
        ("predicate", "text"),
        [
            (local("node-7"), "local('node-7')"),
            (metadata(zone="eu-1", a="b"), "metadata(a='b', zone='eu-1')"),
            (metadata({"k8s.io/zone": "1"}), "metadata({'k8s.io/zone': '1'})"),
            (version(">=1.2,<2"), 'version(">=1.2,<2")'),
            (all_of(passing, metadata(a="b")), "all_of(passing, metadata(a='b'))"),
            (any_of(passing, never), "any_of(passing, never)"),
            (negate(passing), "negate(passing)"),
        ],
    )
    def test_prints_as_it_was_written(self, predicate: Predicate, text: str) -> None:
        assert repr(predicate) == text

    def test_own_functions_combine(self) -> None:
        assert not any_of(never)(instance())
        assert negate(lambda service: service.port == 81)(instance())


class TestVersion:
    @pytest.mark.parametrize(
        ("spec", "text"),
        [
            (">=1.2,<2", "1.2"),
            (">=1.2,<2", "1.2.0"),
            (">=1.2,<2", "1.10"),
            (">=1.2,<2", "v1.9.9"),
            (" >= 1.2 , < 2 ", "1.3"),
            (">=v1.2", "1.2"),
            ("==1.4", "1.4.0"),
            ("==1.4.0", "1.4"),
            ("==1.4.*", "1.4"),
            ("==1.4.*", "1.4.7"),
            ("==1.4.*", "1.4.0-rc1"),
            ("==1.0.*", "1"),
            ("==v1.*", "1.9"),
            ("!=1.4.*", "1.5"),
            ("!=1.4.*", "1.40"),
            ("!=1.4", "1.4.1"),
            ("~=1.4.2", "1.4.2"),
            ("~=1.4.2", "1.4.10"),
            ("~=1.4", "1.9"),
            ("~=1.4-rc1", "1.4"),
            (">1.0", "1.0.1"),
            ("<=2", "2"),
            ("<=2", "2.0.0-rc1"),
            ("<1.0.0", "0.9-rc1"),
            ("<2-rc2", "2.0.0-rc1"),
            (">=1.0.0-rc1", "1.0.0"),
            (">1.0.0-rc1", "1.0.0-rc2"),
            (">1.0.0-rc2", "1.0.0-rc10"),
            (">1.0.0-alpha", "1.0.0-alpha.1"),
            (">1.0.0-alpha.1", "1.0.0-alpha.beta"),
            (">1.0.0-beta", "1.0.0-rc.1"),
            ("==1.0rc1", "1.0.0-RC.1"),
            ("==1.0", "1.0+build.7"),
            ("==0", "0.0.0"),
            ("==1.2", " 1.2 "),
        ],
    )
    def test_satisfied(self, spec: str, text: str) -> None:
        assert version(spec)(versioned(text))

    @pytest.mark.parametrize(
        ("spec", "text"),
        [
            (">=1.2,<2", "1.1.9"),
            (">=1.2,<2", "2.0"),
            (">=1.2,<2", "2.0.0-rc1"),
            (">=1.2,<2", "1.2-rc1"),
            ("==1.4.*", "1.40"),
            ("==1.4.*", "1.5"),
            ("!=1.4.*", "1.4.9"),
            ("!=1.4", "1.4.0"),
            ("~=1.4.2", "1.4.1"),
            ("~=1.4.2", "1.5.0"),
            ("~=1.4", "2.0"),
            (">=1.0.0", "1.0.0-rc1"),
            (">1.0.0", "1.0.0"),
        ],
    )
    def test_not_satisfied(self, spec: str, text: str) -> None:
        assert not version(spec)(versioned(text))

    @pytest.mark.parametrize("spec", [">=0", "!=1.0", "!=1.*", "<9"])
    @pytest.mark.parametrize(
        "text", ["", "latest", "1.x", "1..2", "-1", "1.2.Final", "9" * 5000, "١.٢"]
    )
    def test_what_is_no_version_matches_nothing(self, spec: str, text: str) -> None:
        assert not version(spec)(versioned(text))

    @pytest.mark.parametrize(
        "spec",
        [
            "",
            ",",
            "1.2",
            "=1.2",
            ">>1",
            ">=",
            ">=1.2,",
            ">=latest",
            ">1.*",
            "~=1",
            "~=1.*",
            "==*",
            "==1.*.2",
            ">=1 2",
        ],
    )
    def test_malformed(self, spec: str) -> None:
        with pytest.raises(ValueError) as caught:
            version(spec)
        assert f'version("{spec}")' in str(caught.value)
        assert 'write for example ">=1.2,<2"' in str(caught.value)

    @pytest.mark.parametrize("spec", [5, 1.4, None, (1, 2), b">=1"])
    def test_what_is_no_text_is_refused(self, spec: Any) -> None:
        with pytest.raises(TypeError, match=re.escape('a string such as ">=1.2,<2"')) as caught:
            version(spec)
        assert repr(spec) in str(caught.value)

    def test_malformed_names_the_part(self) -> None:
        with pytest.raises(ValueError, match="'2' is no comparison"):
            version(">=1.2, 2")

    @given(st.text(max_size=40))
    def test_whatever_an_instance_announces(self, text: str) -> None:
        assert version(">=0")(versioned(text)) in (True, False)

    @given(
        st.lists(st.integers(0, 3), min_size=1, max_size=4),
        st.lists(st.integers(0, 3), min_size=1, max_size=4),
    )
    def test_exactly_one_of_less_equal_greater(self, left: list[int], right: list[int]) -> None:
        service, bound = versioned(".".join(map(str, left))), ".".join(map(str, right))
        assert [version(f"{operator}{bound}")(service) for operator in ("<", "==", ">")].count(
            True
        ) == 1


@pytest.mark.parametrize(
    "balancer",
    [RoundRobin(), Random(), LeastPending(), Weighted(), Rendezvous("key")],
    ids=lambda b: type(b).__name__,
)
class TestEveryBalancer:
    def test_is_a_balancer(self, balancer: Balancer) -> None:
        assert isinstance(balancer, Balancer)

    def test_takes_the_only_one(self, balancer: Balancer) -> None:
        assert balancer.choose((instance(),), "only") == instance()

    def test_takes_one_of_them_and_changes_nothing(self, balancer: Balancer) -> None:
        services = instances(7)
        for _ in range(50):
            assert balancer.choose(services, "some") in services
        assert services == instances(7)

    def test_copes_with_any_change(self, balancer: Balancer) -> None:
        for count in (5, 1, 9, 2, 1, 100, 3):
            assert balancer.choose(instances(count), "changing") in instances(count)


def picks(
    balancer: Balancer, services: tuple[Service, ...], scope: object, count: int
) -> list[Service]:
    return [balancer.choose(services, scope) for _ in range(count)]


class TestRoundRobin:
    def test_in_turns(self) -> None:
        balancer, services = RoundRobin(), instances(3)
        first = picks(balancer, services, "a", 3)
        assert set(first) == set(services)
        assert picks(balancer, services, "a", 6) == first + first

    def test_fair_when_questions_interleave(self) -> None:
        balancer, services = RoundRobin(), instances(4)
        filtered = services[:2]
        chosen: Counter[tuple[str, Service]] = Counter()
        for _ in range(40):
            chosen["all", balancer.choose(services, ("orders", passing))] += 1
            chosen["some", balancer.choose(filtered, ("orders", metadata(zone="eu")))] += 1
        assert sorted(chosen.values()) == [10, 10, 10, 10, 20, 20]

    def test_equal_questions_share_a_cursor(self) -> None:
        balancer, services = RoundRobin(), instances(2)
        taken = [balancer.choose(services, ("orders", metadata(zone="eu"))) for _ in range(2)]
        assert set(taken) == set(services)

    def test_goes_on_when_one_comes(self) -> None:
        balancer, services = RoundRobin(), instances(6)
        while balancer.choose(services[:4], "a") != services[1]:
            pass
        assert picks(balancer, services, "a", 4) == list(services[2:6])

    @pytest.mark.parametrize("gone", [{0}, {1}, {0, 1}, {1, 4}, {0, 5}, {3, 5}])
    def test_passes_over_nobody_when_some_leave(self, gone: set[int]) -> None:
        balancer, services = RoundRobin(), instances(6)
        while balancer.choose(services, "a") != services[2]:
            pass
        left = tuple(service for number, service in enumerate(services) if number not in gone)
        after = [service for service in (*services[3:], *services[:3]) if service in left]
        assert picks(balancer, left, "a", len(left)) == after

    def test_goes_on_after_the_last_one_has_left_or_changed(self) -> None:
        balancer, services = RoundRobin(), instances(4)
        while balancer.choose(services, "a") != services[1]:
            pass
        changed = instance(1, status=Status.WARNING)
        services = (services[0], changed, *services[2:])
        assert balancer.choose(services, "a") == services[2]
        assert balancer.choose((services[0], changed, services[3]), "a") == services[3]
        assert balancer.choose((services[0],), "a") == services[0]
        assert picks(balancer, services, "a", 2) == [changed, services[2]]

    def test_nobody_starves_in_a_deployment(self) -> None:
        """One restarts after every fourth call, at another address, and comes back at the end."""
        balancer, services = RoundRobin(random.Random(3)), list(instances(5))
        chosen: Counter[str] = Counter()
        for number in range(1000):
            chosen[balancer.choose(tuple(services), "a").address] += 1
            if number % 4 == 3:
                services.append(services.pop(0))
        assert all(150 <= count <= 250 for count in chosen.values()), chosen

    def test_starts_anywhere(self) -> None:
        services = instances(5)
        assert {RoundRobin().choose(services, "a") for _ in range(300)} == set(services)

    def test_starts_where_the_generator_says(self) -> None:
        services = instances(5)
        first, second = (picks(RoundRobin(random.Random(7)), services, "a", 9) for _ in range(2))
        assert first == second


class TestRandom:
    def test_uniform(self) -> None:
        services = instances(4)
        chosen = Counter(picks(Random(random.Random(1)), services, "a", 4000))
        assert all(850 < chosen[service] < 1150 for service in services)


class TestLeastPending:
    def test_takes_the_less_busy_of_two(self) -> None:
        balancer, (busy, idle) = LeastPending(), instances(2)
        with balancer.pending(busy):
            assert set(picks(balancer, (busy, idle), "a", 50)) == {idle}
        assert set(picks(balancer, (busy, idle), "a", 100)) == {busy, idle}

    def test_never_takes_the_busiest(self) -> None:
        balancer, services = LeastPending(random.Random(1)), instances(5)
        with balancer.pending(services[3]):
            chosen = Counter(picks(balancer, services, "a", 2000))
        assert services[3] not in chosen
        assert all(chosen[service] > 300 for service in services if service is not services[3])

    def test_uniform_when_idle(self) -> None:
        services = instances(4)
        chosen = Counter(picks(LeastPending(random.Random(1)), services, "a", 4000))
        assert all(850 < chosen[service] < 1150 for service in services)

    def test_evens_out(self) -> None:
        balancer, services = LeastPending(random.Random(1)), instances(10)
        for _ in range(1000):
            balancer.pending(balancer.choose(services, "a")).__enter__()
        loads = [balancer.in_flight(service) for service in services]
        assert sum(loads) == 1000
        assert max(loads) - min(loads) < 10

    async def test_counts_for_as_long_as_the_block_lasts(self) -> None:
        balancer, service = LeastPending(), instance()
        with balancer.pending(service) as given:
            assert given is service
            async with balancer.pending(service) as also_given:
                assert also_given is service
                assert balancer.in_flight(service) == 2
            assert balancer.in_flight(service) == 1
        assert balancer.in_flight(service) == 0

    async def test_no_count_is_left_behind(self) -> None:
        balancer, services = LeastPending(), instances(3)

        async def call() -> None:
            async with balancer.pending(balancer.choose(services, "a")):
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(call()) for _ in range(100)]
        await asyncio.sleep(0)
        assert sum(map(balancer.in_flight, services)) == 100
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(RuntimeError), balancer.pending(services[0]):
            raise RuntimeError
        assert sum(map(balancer.in_flight, services)) == 0
        assert not vars(balancer)["_in_flight"]

    def test_a_restart_begins_at_zero(self) -> None:
        balancer = LeastPending()
        with balancer.pending(instance(id="old")):
            assert balancer.in_flight(instance(id="new")) == 0

    def test_a_change_of_status_keeps_the_count(self) -> None:
        balancer = LeastPending()
        with balancer.pending(instance(id="a")):
            assert balancer.in_flight(instance(id="a", status=Status.WARNING)) == 1


class TestWeighted:
    @staticmethod
    def weighing(*weights: str | None) -> tuple[Service, ...]:
        return tuple(
            instance(number, metadata={} if weight is None else {"weight": weight})
            for number, weight in enumerate(weights)
        )

    def test_in_proportion(self) -> None:
        services = self.weighing("1", "2.5", "6.5")
        chosen = Counter(picks(Weighted(rng=random.Random(1)), services, "a", 10_000))
        for service, share in zip(services, (1000, 2500, 6500), strict=True):
            assert abs(chosen[service] - share) < 200

    @pytest.mark.parametrize("weight", [None, "", "heavy", "-1", "nan", "inf", "-inf", "1e300"])
    def test_nonsense_counts_as_default(self, weight: str | None) -> None:
        services = self.weighing("3", weight)
        chosen = Counter(picks(Weighted(default=3, rng=random.Random(1)), services, "a", 1000))
        assert abs(chosen[services[0]] - 500) < 70

    def test_zero_means_never(self) -> None:
        services = self.weighing("0", "1", "0", "1e-300", "0")
        assert set(picks(Weighted(), services, "a", 500)) == {services[1]}

    @pytest.mark.parametrize("weights", [("0", "0", "0"), ("5e-324",) * 3, ("1e100",) * 3])
    def test_extremes(self, weights: tuple[str, ...]) -> None:
        services = self.weighing(*weights)
        assert set(picks(Weighted(), services, "a", 500)) <= set(services)

    def test_all_zero_means_all_equal(self) -> None:
        services = self.weighing("0", "0")
        assert set(picks(Weighted(), services, "a", 100)) == set(services)

    def test_default_of_zero_skips_those_without_weight(self) -> None:
        services = self.weighing(None, "1")
        assert set(picks(Weighted(default=0), services, "a", 100)) == {services[1]}

    def test_another_key(self) -> None:
        services = (instance(0, metadata={"share": "0"}), instance(1, metadata={"share": "4"}))
        assert set(picks(Weighted("share"), services, "a", 100)) == {services[1]}

    def test_a_change_of_weights_is_seen_at_once(self) -> None:
        balancer = Weighted()
        before, after = self.weighing("0", "1"), self.weighing("1", "0")
        assert set(picks(balancer, before, "a", 50)) == {before[1]}
        assert set(picks(balancer, after, "a", 50)) == {after[0]}

    def test_weighs_once_per_change(self, monkeypatch: pytest.MonkeyPatch) -> None:
        balancer, services = Weighted(), self.weighing("1", "2")
        picks(balancer, services, "a", 1)
        monkeypatch.setattr(balancer, "_weight", None)
        picks(balancer, services, "a", 10)

    @pytest.mark.parametrize("default", [-1.0, float("nan"), float("inf")])
    def test_bad_default(self, default: float) -> None:
        with pytest.raises(ValueError, match=f"default={default!r}"):
            Weighted(default=default)


class TestRendezvous:
    def test_the_same_for_the_same_key(self) -> None:
        services = instances(9)
        assert len(set(picks(Rendezvous("user-1"), services, "a", 20))) == 1
        assert Rendezvous("user-1").choose(services[::-1], "b") == Rendezvous("user-1").choose(
            services, "a"
        )

    def test_spreads_keys(self) -> None:
        services = instances(4)
        chosen = Counter(
            Rendezvous(f"user-{number}").choose(services, "a") for number in range(4000)
        )
        assert all(850 < chosen[service] < 1150 for service in services)

    def test_only_the_keys_of_the_one_that_goes_move(self) -> None:
        services = instances(6)
        gone, left = services[2], (*services[:2], *services[3:])
        for number in range(500):
            before = Rendezvous(f"user-{number}").choose(services, "a")
            after = Rendezvous(f"user-{number}").choose(left, "a")
            assert after == before or before == gone

    def test_a_restart_or_a_new_status_moves_nothing(self) -> None:
        services = instances(5)
        restarted = tuple(instance(n, id="new", status=Status.WARNING) for n in range(5))
        for number in range(100):
            balancer = Rendezvous(f"user-{number}")
            assert balancer.choose(services, "a").address == balancer.choose(restarted, "a").address

    def test_by_url_where_there_is_no_address(self) -> None:
        services = tuple(Service(name="orders", url=f"http://node-{n}/") for n in range(4))
        assert {Rendezvous(str(number)).choose(services, "a") for number in range(100)} == set(
            services
        )

    def test_any_text_is_a_key(self) -> None:
        for key in ("", "\0", "\ud800", "café"):
            assert Rendezvous(key).choose(instances(3), "a") in instances(3)

    def test_the_same_in_every_process(self) -> None:
        program = (
            "from aioregistry.choosing import Rendezvous; from aioregistry.service import Service\n"
            "services = tuple(Service(name='orders', address=f'10.0.0.{n}:80') for n in range(9))\n"
            "print(*(Rendezvous(str(k)).choose(services, 0).address for k in range(20)))"
        )
        here = [Rendezvous(str(key)).choose(instances(9), 0).address for key in range(20)]
        for seed in ("1", "2"):
            there = subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                text=True,
            )
            assert there.stdout.split() == here

    def test_a_value(self) -> None:
        assert Rendezvous("a") == Rendezvous("a")
        assert len({Rendezvous("a"), Rendezvous("a"), Rendezvous("b")}) == 2
        assert repr(Rendezvous("a")) == "Rendezvous(key='a')"


@pytest.mark.parametrize(
    ("balancer", "table"),
    [(RoundRobin(), "_cursors"), (Weighted(), "_shares")],
    ids=["RoundRobin", "Weighted"],
)
def test_forgets_scopes_that_are_over(balancer: Balancer, table: str) -> None:
    """Those of predicates that are made for each lookup, and hold all that they let through."""
    catalogue = Catalogue()
    for number in range(3):
        address = f"10.0.0.{number}:80"
        catalogue.announce(Announcement(name="orders", address=address, id=str(number)), 0.0)
    for _ in range(1000):
        selection = catalogue.select("orders", lambda service: service.name == "orders")
        assert balancer.choose(selection.trusted, selection.scope) in selection.services
    assert len(getattr(balancer, table)) <= 2 * MAX_PREDICATES


@pytest.mark.parametrize(
    ("balancer", "table"),
    [(RoundRobin(), "_cursors"), (Weighted(), "_shares")],
    ids=["RoundRobin", "Weighted"],
)
def test_remembers_a_bounded_number_of_scopes(
    balancer: Balancer, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "_MAX_SCOPES", 10)
    for scope in range(100):
        balancer.choose(instances(2), scope)
        balancer.choose(instances(2), scope)
    assert list(getattr(balancer, table)) == list(range(90, 100))
