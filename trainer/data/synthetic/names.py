"""Names for the things of the synthetic world."""
# ruff: noqa: SIM905 (words in one string read better than a column of names)

import numpy as np
import numpy.typing as npt

CATEGORIES = (
    "Adventure Animals Art Biography Comedy Cooking Crime Drama Fantasy History Horror Music Mystery "
    "Nature Noir Romance Science Space Sport Travel"
).split()
DEVICES = ("phone", "tv", "tablet", "web")
SEGMENTS = ("student", "parent", "commuter", "collector", "traveller", "retired")
ADJECTIVES = (
    "Amber Blue Bright Broken Burning Calm Cold Crimson Curious Distant Early Empty Endless First "
    "Forgotten Frozen Gentle Golden Hidden Hollow Last Little Lonely Long Lost Lucky New Northern "
    "Old Pale Quiet Restless Second Secret Silent Silver Small Stolen Strange Sudden Tall Third "
    "Twisted Velvet Wandering White Wild Winter Wise Young"
).split()
NOUNS = (
    "Anchor Atlas Bakery Balloon Bridge Canyon Castle Chapter Circus City Compass Corner Crown Dance "
    "Desert Door Engine Evening Falcon Farm Feast Fire Forest Fox Game Garden Ghost Glacier Guitar "
    "Harbor Heart Hotel House Hunter Island Journey Key Kingdom Kitchen Lake Lantern Letter "
    "Lighthouse Map Market Mask Melody Mirror Moon Morning Mountain Museum Night Ocean Orchard "
    "Palace Paper Piano Planet Portrait Promise Queen Race Railway Rain Recipe Refuge River Road "
    "Rocket Sailor School Season Secret Shadow Signal Snow Song Station Stone Storm Story Stranger "
    "Summer Sword Table Theatre Tiger Tower Train Trial Valley Verdict Village Voyage Wedding Whale "
    "Wind Window Wolf"
).split()


def category_names(count: int) -> list[str]:
    """Returns so many distinct names."""
    return [CATEGORIES[i] if i < len(CATEGORIES) else f"Category {i + 1}" for i in range(count)]


def titles(category: npt.NDArray[np.integer], rng: np.random.Generator) -> list[str]:
    """Returns a title for each item `[items]`: an adjective, a noun of its category's, a part number."""
    own = rng.integers(0, len(NOUNS), (int(category.max(initial=0)) + 1, 8))
    noun = np.where(
        rng.random(len(category)) < 0.7,
        own[category, rng.integers(0, 8, len(category))],
        rng.integers(0, len(NOUNS), len(category)),
    )
    adjective = rng.integers(0, len(ADJECTIVES), len(category))
    seen: dict[str, int] = {}
    found = []
    for first, second in zip(adjective, noun, strict=True):
        title = f"The {ADJECTIVES[first]} {NOUNS[second]}"
        seen[title] = seen.get(title, 0) + 1
        found.append(title if seen[title] == 1 else f"{title} {seen[title]}")
    return found
