"""Know the price first: plan a recipe, print what it would cost, and run it only if that is not too much.

    python examples/plan_first.py                         # a preview made on this machine: no key, no network
    BFL_API_KEY=… FLUX_ENDPOINT=bfl python examples/plan_first.py

A plan spends nothing and writes nothing. The price is an estimate; the budget is a hard limit.
"""

import os
import sys
from pathlib import Path

from flux_tasks import ImageRef
from pipelines import Recipe

CAP = 30.0  # credits; 1 credit is 0.01 USD

if __name__ == "__main__":
    settings = {
        "endpoint": os.environ.get("FLUX_ENDPOINT", "local"),
        "store": os.environ.get("FLUX_STORE", "out/store"),
    }
    recipe = Recipe.load("configs/try-on.yaml", {"place": "a park in autumn"})
    plan = recipe.plan(**settings)
    worst = plan.credits + plan.total("undecided").credits + plan.total("retries").credits
    print(f"{plan.items} items, {plan.jobs} jobs, about {plan.credits:g} credits, at worst {worst:g}")
    if plan.credits > CAP or plan.unpriced:
        sys.exit(f"more than {CAP:g} credits, or a price that nobody knows: not begun")
    recipe.run(budget=CAP, **settings)
    for path in sorted(Path("out/try-on").glob("*.jpg")):
        image = ImageRef.of(path)
        print(path, f"{image.width}×{image.height}", image.engine)
