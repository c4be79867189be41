"""The baseline is Flower's own code, of the version that the figures are about."""

from __future__ import annotations

import os

import numpy as np
from flwr.client.mod import secaggplus_mod as theirs
from flwr.serverapp.strategy import FedAvg

from simulations.attack_demos import secagg_plus, stock_flower
from simulations.attack_demos.secagg_plus import (
    N_VALUES,
    VICTIM,
    Workflow,
    nodes,
    recovered_share,
    unmasked,
    updates,
)
from simulations.attack_demos.stock_flower import FLOWER, fedavg, reply_content


def test_it_is_flower_1_41_and_its_own_code() -> None:
    assert FLOWER.startswith("flwr 1.41")
    assert secagg_plus.secaggplus_mod is theirs
    assert stock_flower.FedAvg is FedAvg


def test_fedavg_weighs_by_what_clients_say() -> None:
    contents = [
        reply_content({"w": np.array([0.0])}, num_examples=1),
        reply_content({"w": np.array([4.0])}, num_examples=3),
    ]
    assert fedavg(contents, server_round=1)["w"] == 3.0


def test_masks_do_not_come_off_by_other_secrets() -> None:
    trained = updates(1)
    with nodes(trained, seed=1) as lines:
        workflow = Workflow(lines)
        everyone = list(trained)
        keys = {number: workflow.set_up(number) for number in everyone}
        sent = {number: workflow.share_keys(number, keys) for number in everyone}
        given = {each: sent[each].ciphertexts[VICTIM] for each in everyone if each != VICTIM}
        masked = workflow.masked_vector(VICTIM, given)
    wrong = {number: os.urandom(32) for number in everyone if number != VICTIM}
    guess = unmasked(masked, VICTIM, seed=os.urandom(32), secrets=wrong)
    assert len(guess) == N_VALUES
    assert recovered_share(guess, trained[VICTIM]) < 0.01
