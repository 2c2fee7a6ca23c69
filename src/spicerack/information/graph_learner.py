"""A small network that learns which samples are alike, from nothing but which are alike already.

A perceptron of one hidden layer is trained so that a sample lies near one of its anchors and far from the others of
its batch (NT-Xent, Chen et al. 2020). The anchors are its nearest neighbors, at first by the features themselves;
after every epoch some of them are replaced by neighbors in what was learned (bootstrapping, as in SUBLIME, Liu et al.
2022). On the CPU, from one seed, in the order of the rows given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spicerack.information.neighbors import nearest


@dataclass(frozen=True)
class Learning:
    """How the network is trained.

    Attributes:
        anchors: of each sample.
        temperature: of NT-Xent.
        epochs: walks over the samples.
        batch: samples of a step.
        rate: learning rate of Adam.
        renewed: share of the anchors that is replaced after an epoch.
        hidden, width: of the network's hidden layer, and of what it gives.
    """

    anchors: int = 20
    temperature: float = 0.2
    epochs: int = 5
    batch: int = 256
    rate: float = 1e-3
    renewed: float = 0.2
    hidden: int = 256
    width: int = 64


def learn_features(X: npt.NDArray[np.float32], learning: Learning, seed: int) -> npt.NDArray[np.float32]:
    """What the trained network gives, at unit length, (n, width); the features themselves for fewer than three rows.

    Args:
        X: features (n, k), rows of unit length.
        learning: how it is trained.
        seed: of weights, batches and anchors; torch's global generator is left as it was.
    """
    if len(X) < 3:
        return X
    rng = np.random.Generator(np.random.PCG64(seed))
    anchors = nearest(X, X, learning.anchors, without_self=True)[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(X.shape[1], learning.hidden), nn.ReLU(), nn.Linear(learning.hidden, learning.width)
        )
    optimizer = torch.optim.Adam(network.parameters(), lr=learning.rate)
    features = torch.from_numpy(X)
    for _ in range(learning.epochs):
        order = rng.permutation(len(X))
        for start in range(0, len(X) - 1, learning.batch):
            rows = order[start : start + learning.batch]
            others = anchors[rows, rng.integers(anchors.shape[1], size=rows.size)]
            loss = nt_xent(network(features[rows]), network(features[others]), learning.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        learned = _unit(network, features)
        found = nearest(learned, learned, learning.anchors, without_self=True)[0]
        renewed = rng.random(anchors.shape) < learning.renewed
        anchors = np.where(renewed, found, anchors)
    return _unit(network, features)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean over both sides of `-log(exp(cos(z_i, z_i')/T) / sum_{l != i} exp(cos(z_i, z_l)/T))`, l over all 2b.

    Args:
        first: (b, w).
        second: the partner of each, (b, w).
        temperature: T > 0.
    """
    z = nn.functional.normalize(torch.cat([first, second]), dim=1)
    cosines = z @ z.T / temperature
    cosines = cosines.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    partner = torch.cat([torch.arange(len(first), len(z)), torch.arange(len(first))])
    return nn.functional.cross_entropy(cosines, partner)


def _unit(network: nn.Module, features: Tensor) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        parts = [nn.functional.normalize(network(part), dim=1) for part in features.split(8192)]
    return np.ascontiguousarray(torch.cat(parts).numpy())
