"""What the model is taught to be asked, and how it answers.

Every answer is about the newest stride, the last two seconds of the window: what was in view before that and has left is no
longer in view. The first spelling of each question is the one the model card's scores are taken with.
"""

from __future__ import annotations

PERSON, VEHICLE, ANIMAL, BAG, OTHER = range(5)
CLASSES = ("person", "vehicle", "animal", "bag")

QUESTIONS: dict[str, tuple[str, ...]] = {
    "person": (
        "Is a person in view?",
        "Is there a person in view? Answer yes or no.",
        "Is anyone there?",
        "Do you see a person?",
        "Is somebody in the picture?",
        "Are there people in view?",
    ),
    "vehicle": (
        "Is a vehicle in view?",
        "Is there a vehicle in view? Answer yes or no.",
        "Is a car, truck, bus or motorcycle in view?",
        "Do you see a vehicle?",
        "Are there cars in view?",
    ),
    "animal": ("Is an animal in view?", "Do you see an animal?"),
    "bag": ("Is a bag in view?", "Do you see a bag or a suitcase?"),
    "count": ("How many people are in view?", "How many persons do you see?", "Count the people."),
    "moving": ("Is something moving?", "Is anything moving? Answer yes or no.", "Does anything move?"),
    "where": ("Where is something moving?", "Where in the picture is something moving?"),
    "person_where": ("Where is the person?", "Where in the picture is the person?"),
    "left_behind": ("Was an object left behind?", "Did someone leave an object behind?"),
    "fall": ("Did someone fall?", "Has a person fallen?", "Is someone lying on the ground after a fall?"),
    "fight": ("Are people fighting?", "Is there a fight?", "Do you see people fight?"),
    "caption": ("Describe what you see.", "What is in view?", "Describe the scene in a few words."),
}

YES_NO = ("person", "vehicle", "animal", "bag", "moving", "left_behind", "fall", "fight")
COUNTS = ("0", "1", "2", "3", "4", "5 or more")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
NOWHERE = "nowhere"
_NUMBERS = ("no", "a", "two", "three", "four")


def yes_no(value: bool) -> str:
    return "Yes" if value else "No"


def count(people: int) -> str:
    return COUNTS[min(people, 5)]


def place(x: float, y: float) -> str:
    """The ninth of the picture that holds (x, y), each 0 to 1."""
    return PLACES[min(2, max(0, int(y * 3))) * 3 + min(2, max(0, int(x * 3)))]


def caption(counts: dict[str, int], moving: str | None) -> str:
    """A sentence from how many of each class are in view, and where something moves."""
    parts = []
    for name, plural in (("person", "people"), ("vehicle", "vehicles"), ("animal", "animals"), ("bag", "bags")):
        n = counts.get(name, 0)
        if n == 1:
            parts.append(("an " if name == "animal" else "a ") + name)
        elif n > 1:
            parts.append(f"{_NUMBERS[n] if n < 5 else 'several'} {plural}")
    if not parts:
        return "Nobody is in view."
    text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return text[0].upper() + text[1:] + (f", moving at the {moving}." if moving else ".")
