"""Collect gradients of a model that is already loaded, then select twice from the one store.

.venv/bin/python examples/gradients_of_your_own_model.py

The model is a tiny random one, so that this runs anywhere in seconds; put your own in its place.
"""

import tempfile
from pathlib import Path

import spicerack
from spicerack.testing import tiny_model, tiny_tokenizer

pool = [
    {"messages": [{"role": "user", "content": f"{a} + {b} = ?"}, {"role": "assistant", "content": str(a + b)}]}
    for a in range(12)
    for b in range(12)
]
model, tokenizer = tiny_model("qwen2", vocab_size=300), tiny_tokenizer()

with tempfile.TemporaryDirectory() as folder:
    store = spicerack.collect_gradients(
        pool, model=model, tokenizer=tokenizer, output_dir=Path(folder) / "store", dimension=256, max_length=128
    )
    print(store, "mean loss", store.column("loss_mean").mean().round(3))
    for rows in ("plain", "unit"):
        chosen = spicerack.select(store, method="spice", budget=0.1, rows=rows)
        print(rows, "rows:", chosen.indices[:8], chosen.certificate.sentence())
    few = spicerack.select(store, method="spice", budget=spicerack.TokenBudget(500))
    print("within 500 tokens:", len(few.indices), "samples,", store.column("tokens")[few.indices].sum(), "tokens")
