"""Select from any matrix of gradient or feature rows: no model, no store.

.venv/bin/python examples/select_from_an_array.py
"""

import numpy as np

import spicerack

rng = np.random.default_rng(0)
directions = rng.standard_normal((20, 64))  # twenty kinds of sample, some far more frequent than others
kinds = rng.choice(20, size=2000, p=np.arange(1, 21)[::-1] / 210)
rows = directions[kinds] + 0.3 * rng.standard_normal((2000, 64))

chosen = spicerack.select(rows, method="spice", budget=40)
random = spicerack.select(rows, method="random", budget=40)

print(chosen)
print("kinds covered by spice: ", len(set(kinds[chosen.indices])))
print("kinds covered by random:", len(set(kinds[random.indices])))
print("gains of the first picks:", chosen.trace["gain"][:5].round(2))
print(chosen.certificate.sentence())
