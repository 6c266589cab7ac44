"""Ensembles: a mixture of members that are trained together."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from estimators import testing
from estimators.ensemble import Ensemble

SMALL = {"width": 16, "depth": 1, "members": 1, "points": 4}
NSF = {"member": "nsf", "members": 3, "arguments": {"hidden": [16], "transforms": 1}}


def ensemble(**arguments: Any) -> Ensemble:
    f = testing.trained("ensemble", **arguments).eval()
    assert isinstance(f, Ensemble)
    return f


def test_members_differ_and_know_their_name() -> None:
    f, x = ensemble(**NSF), testing.rows(2)[1]
    assert [member.name for member in f.members] == ["nsf"] * 3
    draws = [member.posterior().sample(x, 50, seed=0) for member in f.members]
    assert not torch.allclose(draws[0], draws[1], atol=0.01)


def test_density_is_the_mean_of_the_members_densities() -> None:
    f, (theta, x) = ensemble(**NSF), testing.rows(5)
    theta = theta[:, None]
    each = [member.posterior().log_prob(theta, x).exp() for member in f.members]
    ours = f.posterior().log_prob(theta, x).exp()
    assert torch.allclose(ours, torch.stack(each).mean(0), rtol=1e-4)


def test_draws_are_those_of_the_mixture() -> None:
    """Members that are moved far apart share the draws equally."""
    f = ensemble(member="cmpe", members=2, arguments={"width": 16})
    first, second = f.members
    with torch.no_grad():
        for member, shift in ((first, -1.0), (second, 1.0)):
            member.network.last.weight.zero_()
            member.network.last.bias.fill_(shift)
    draws = f.posterior().sample(testing.rows(1)[1], 4000, sampling_steps=1, seed=0)[0]
    alone = [
        m.posterior().sample(testing.rows(1)[1], 4000, sampling_steps=1, seed=0)[0]
        for m in f.members
    ]
    halves = sorted(a[:, 0].mean().item() for a in alone)
    assert halves[1] - halves[0] > 0.1
    assert draws[:, 0].mean().item() == pytest.approx(np.mean(halves), abs=0.05)


def test_it_takes_its_members_passes_and_bounds() -> None:
    f = ensemble(
        member="cmpe", members=2, arguments={"width": 8, "sampling_steps": 3, "bounds": "logit"}
    )
    assert f.posterior().sampling_steps == 3
    assert type(f.transform) is type(f.members[0].transform)
    assert ensemble(**NSF).posterior().sampling_steps is None


def test_every_member_has_its_own_summary() -> None:
    arguments = {"hidden": [16], "transforms": 1, "summary": "deepset"}
    f = ensemble(member="nsf", members=2, arguments=arguments)
    x = {k: torch.tensor(v).float() for k, v in testing.rows(4)[1].items()}
    whole = f.summary(x)
    assert torch.equal(whole, torch.cat([member.summary(x) for member in f.members], dim=1))
    assert not torch.equal(*(member.summary(x) for member in f.members))
    twin = copy.deepcopy(f)
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.zero_()
    assert torch.equal(twin.summary(x), whole)


def test_members_keep_their_phases_and_learn_from_their_own_examples() -> None:
    f = ensemble(member="cmpe_distilled", members=2, arguments=SMALL)
    theta, x = testing.rows(8)
    batch = torch.tensor(theta).float(), {k: torch.tensor(v).float() for k, v in x.items()}
    assert [(phase.best, phase.rate) for phase in f.phases] == [(True, 1.0), (False, 0.33)]
    assert f.phases[1].replay == f.members[0].phases[1].replay
    torch.manual_seed(0)
    own = [member.examples(*batch) for member in f.members]
    losses = [member.replay_loss(part) for member, part in zip(f.members, own, strict=True)]
    torch.manual_seed(0)
    assert f.replay_loss(f.examples(*batch)) == torch.stack(losses).mean()


def test_members_without_density_say_so() -> None:
    f = ensemble(member="cmpe", members=2, arguments={"width": 8, "bounds": "probit"})
    with pytest.raises(NotImplementedError, match="'cmpe' has no density"):
        f.posterior().log_prob(np.zeros((1, 1, 2)), testing.rows(1)[1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"member": "cpme"}, LookupError, "did you mean 'cmpe'"),
        ({"members": 0}, ValueError, "members"),
        ({"arguments": {"widht": 3}}, TypeError, "'cmpe' has no argument 'widht'"),
    ],
)
def test_bad_argument_is_named(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        testing.make("ensemble", **arguments)
