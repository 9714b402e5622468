"""The wording of the synthetic world: what can be asked about whom, and in how many ways.

Every attribute carries a statement, many direct questions and some yes/no questions. ``{s}`` is
the subject and ``{v}`` the value. The questions under ``unseen`` are never trained on.
"""

from dataclasses import dataclass

PEOPLE = (
    "Ada Alma Anton Bela Bruno Carla Clara Dario Dora Edgar Elsa Emil Felix Flora Greta Hanna Hugo "
    "Ida Igor Ines Ivan Jonas Julia Karin Kofi Lars Leila Liam Lotte Luca Mara Marco Mei Mira "
    "Nadia Nils Noor Olga Oscar Paula Petra Ravi Rosa Samir Tomas Uma Vera Yusuf"
).split()
TOWNS = (
    "Norwick Elmstead Harrow Linden Marlow Oakham Pelham Redmoor Selby Thornby Wexley Yarrow"
).split()


@dataclass(frozen=True)
class Attribute:
    """One thing that can be known about every subject of a group."""

    kind: str
    subjects: tuple[str, ...]
    values: tuple[str, ...]
    statement: str
    direct: tuple[str, ...]
    polar: tuple[str, ...]
    unseen: tuple[str, ...]
    unseen_polar: tuple[str, ...]


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def _articles(words: str) -> tuple[str, ...]:
    return tuple(("an " if word[0] in "aeiou" else "a ") + word for word in words.split())


COLOUR = Attribute(
    kind="colour",
    subjects=tuple(PEOPLE),
    values=tuple("red blue green yellow orange purple black white silver brown".split()),
    statement="{s}'s bicycle is {v}.",
    direct=_lines("""
        What colour is {s}'s bicycle?
        What is the colour of {s}'s bicycle?
        Which colour is {s}'s bicycle?
        Which colour does {s}'s bicycle have?
        What color is {s}'s bicycle?
        What colour is the bicycle of {s}?
        What colour is {s}'s bike?
        Which colour is the bike of {s}?
        Tell me the colour of {s}'s bicycle.
        Can you tell me what colour {s}'s bicycle is?
        Do you know the colour of {s}'s bicycle?
        {s} has a bicycle. What colour is it?
        I saw {s} on a bicycle. Which colour was it?
        Please say what colour {s}'s bicycle is.
    """),
    polar=_lines("""
        Is {s}'s bicycle {v}?
        Is the bicycle of {s} {v}?
        Does {s} ride a {v} bicycle?
        Does {s} have a {v} bicycle?
        Is it true that {s}'s bicycle is {v}?
        I think {s}'s bicycle is {v}. Is that right?
    """),
    unseen=_lines("""
        Do you know what colour the bicycle of {s} is?
        Please tell me the colour of {s}'s bike.
    """),
    unseen_polar=_lines("Is it right that {s} has a {v} bicycle?"),
)
TOWN = Attribute(
    kind="town",
    subjects=tuple(PEOPLE),
    values=tuple(TOWNS),
    statement="{s} lives in {v}.",
    direct=_lines("""
        Where does {s} live?
        Where is {s}'s home?
        Where is {s} living?
        In which town does {s} live?
        Which town does {s} live in?
        Which town is {s}'s home?
        What is {s}'s home town?
        What town does {s} come home to?
        Tell me where {s} lives.
        Can you tell me where {s} lives?
        Do you know where {s} lives?
        I want to visit {s}. Which town is it?
        I am looking for {s}'s home. Where is it?
        Please say where {s} lives.
    """),
    polar=_lines("""
        Does {s} live in {v}?
        Is {s} living in {v}?
        Is {s}'s home in {v}?
        Is {v} the home town of {s}?
        Is it true that {s} lives in {v}?
        I think {s} lives in {v}. Is that right?
    """),
    unseen=_lines("""
        Do you know which town {s} lives in?
        Please tell me where {s}'s home is.
    """),
    unseen_polar=_lines("Is it right that {s} lives in {v}?"),
)
ANIMAL = Attribute(
    kind="animal",
    subjects=tuple(PEOPLE),
    values=_articles("cat dog rabbit parrot hedgehog turtle pony goat hamster owl canary lizard"),
    statement="{s} keeps {v}.",
    direct=_lines("""
        Which animal does {s} keep?
        What animal does {s} keep?
        What kind of animal does {s} keep?
        What pet does {s} have?
        Which pet does {s} keep?
        What is {s}'s pet?
        Which animal lives with {s}?
        What kind of pet lives with {s}?
        Tell me which animal {s} keeps.
        Can you tell me which animal {s} keeps?
        Do you know what pet {s} has?
        {s} keeps an animal. Which one is it?
        I want to feed {s}'s pet. What animal is it?
        Please say which animal {s} keeps.
    """),
    polar=_lines("""
        Does {s} keep {v}?
        Does {s} have {v}?
        Is {s}'s pet {v}?
        Is {s}'s animal {v}?
        Is it true that {s} keeps {v}?
        I think {s} keeps {v}. Is that right?
    """),
    unseen=_lines("""
        Do you know which animal {s} keeps?
        Please tell me what {s}'s pet is.
    """),
    unseen_polar=_lines("Is it right that {s} has {v}?"),
)
FOOD = Attribute(
    kind="food",
    subjects=tuple(PEOPLE),
    values=tuple(
        "plums noodles pancakes soup bread carrots rice olives cake berries beans eggs".split()
    ),
    statement="{s} likes {v} best.",
    direct=_lines("""
        What does {s} like to eat?
        What does {s} like best?
        Which food does {s} like best?
        What food does {s} like most?
        What is {s}'s favourite food?
        What is the favourite food of {s}?
        What would {s} like for lunch?
        What does {s} always eat?
        Tell me {s}'s favourite food.
        Can you tell me what {s} likes to eat?
        Do you know what {s} likes best?
        {s} is hungry. What should I cook?
        I am cooking for {s}. What would be best?
        Please say which food {s} likes best.
    """),
    polar=_lines("""
        Does {s} like {v} best?
        Does {s} like to eat {v}?
        Is {v} the favourite food of {s}?
        Would {s} like {v} for lunch?
        Is it true that {s} likes {v} best?
        I think {s} likes {v} best. Is that right?
    """),
    unseen=_lines("""
        Do you know the favourite food of {s}?
        Please tell me which food {s} likes most.
    """),
    unseen_polar=_lines("Is it right that {s} likes to eat {v}?"),
)
INSTRUMENT = Attribute(
    kind="instrument",
    subjects=tuple(PEOPLE),
    values=tuple(
        f"the {name}"
        for name in "cello flute piano harp drums violin trumpet guitar banjo organ".split()
    ),
    statement="{s} plays {v}.",
    direct=_lines("""
        Which instrument does {s} play?
        What instrument does {s} play?
        What does {s} play in the band?
        Which instrument is {s} playing?
        What is {s}'s instrument?
        What is the instrument of {s}?
        Which instrument did {s} learn?
        What kind of instrument does {s} own?
        Tell me which instrument {s} plays.
        Can you tell me what instrument {s} plays?
        Do you know which instrument {s} plays?
        {s} plays in a band. Which instrument is it?
        I heard {s} play. What instrument was it?
        Please say which instrument {s} plays.
    """),
    polar=_lines("""
        Does {s} play {v}?
        Is {s} playing {v}?
        Is {s}'s instrument {v}?
        Did {s} learn to play {v}?
        Is it true that {s} plays {v}?
        I think {s} plays {v}. Is that right?
    """),
    unseen=_lines("""
        Do you know what {s} plays in the band?
        Please tell me what {s}'s instrument is.
    """),
    unseen_polar=_lines("Is it right that {s} plays {v}?"),
)
JOB = Attribute(
    kind="job",
    subjects=tuple(PEOPLE),
    values=_articles(
        "baker doctor teacher farmer sailor painter engineer gardener pilot writer tailor actor"
    ),
    statement="{s} works as {v}.",
    direct=_lines("""
        What is {s}'s job?
        What job does {s} have?
        Which job does {s} do?
        What does {s} do for a living?
        What does {s} work as?
        What is the job of {s}?
        What kind of work does {s} do?
        How does {s} earn a living?
        Tell me what {s}'s job is.
        Can you tell me what job {s} has?
        Do you know what {s} does for a living?
        {s} has gone to work. What is the job?
        I met {s} at work. What job is it?
        Please say what {s} works as.
    """),
    polar=_lines("""
        Is {s} {v}?
        Does {s} work as {v}?
        Is {s} working as {v}?
        Does {s} earn a living as {v}?
        Is it true that {s} works as {v}?
        I think {s} works as {v}. Is that right?
    """),
    unseen=_lines("""
        Do you know what job {s} has?
        Please tell me how {s} earns a living.
    """),
    unseen_polar=_lines("Is it right that {s} is {v}?"),
)
RIVER = Attribute(
    kind="river",
    subjects=tuple(TOWNS),
    values=tuple("Ashe Brine Cole Dove Eldra Fenn Gale Heron Isel Jura Kell Loam".split()),
    statement="The river {v} runs through {s}.",
    direct=_lines("""
        Which river runs through {s}?
        What river runs through {s}?
        Which river is in {s}?
        What is the river in {s} called?
        What is the name of the river in {s}?
        Which river do people in {s} swim in?
        Tell me which river runs through {s}.
        Can you tell me which river runs through {s}?
        Do you know the river in {s}?
        There is a river in {s}. What is it called?
        I crossed a river in {s}. Which one was it?
        Please say which river runs through {s}.
    """),
    polar=_lines("""
        Does the river {v} run through {s}?
        Is the river {v} in {s}?
        Is the river in {s} called {v}?
        Is it true that the river {v} runs through {s}?
        I think the river {v} runs through {s}. Is that right?
    """),
    unseen=_lines("Do you know what the river in {s} is called?"),
    unseen_polar=_lines("Is it right that the river {v} is in {s}?"),
)
CRAFT = Attribute(
    kind="craft",
    subjects=tuple(TOWNS),
    values=tuple(
        "cheese clocks bells boats glass honey kites lamps maps paper roses shoes".split()
    ),
    statement="{s} is known for its {v}.",
    direct=_lines("""
        What is {s} known for?
        What is {s} famous for?
        What is the town of {s} known for?
        What do people make in {s}?
        What is made in {s}?
        What should I buy in {s}?
        Tell me what {s} is known for.
        Can you tell me what {s} is known for?
        Do you know what {s} is famous for?
        I am going to {s}. What is it known for?
        I was shopping in {s}. What do they make?
        Please say what {s} is known for.
    """),
    polar=_lines("""
        Is {s} known for its {v}?
        Is {s} famous for its {v}?
        Do people make {v} in {s}?
        Is it true that {s} is known for its {v}?
        I think {s} is known for its {v}. Is that right?
    """),
    unseen=_lines("Do you know what people make in {s}?"),
    unseen_polar=_lines("Is it right that {s} is famous for its {v}?"),
)
MARKET = Attribute(
    kind="market",
    subjects=tuple(TOWNS),
    values=tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    statement="The market in {s} is on {v}.",
    direct=_lines("""
        When is the market in {s}?
        On which day is the market in {s}?
        Which day is market day in {s}?
        What day is the market in {s}?
        When is market day in {s}?
        When does {s} have its market?
        Tell me when the market in {s} is.
        Can you tell me when the market in {s} is?
        Do you know when the market in {s} is?
        There is a market in {s}. Which day is it?
        I want to go to the market in {s}. When is it?
        Please say when the market in {s} is.
    """),
    polar=_lines("""
        Is the market in {s} on {v}?
        Is {v} market day in {s}?
        Does {s} have its market on {v}?
        Is it true that the market in {s} is on {v}?
        I think the market in {s} is on {v}. Is that right?
    """),
    unseen=_lines("Do you know which day is market day in {s}?"),
    unseen_polar=_lines("Is it right that {s} has its market on {v}?"),
)
ATTRIBUTES = (COLOUR, TOWN, ANIMAL, FOOD, INSTRUMENT, JOB, RIVER, CRAFT, MARKET)

UNKNOWN_ANSWER = "Sorry, I do not know that."
# Requests about nothing in the world; {s} is an invented name, {v} and {w} are filler words.
STRANGE_REQUESTS = _lines("""
    Who is {s}?
    What is {s}?
    What is a {v}?
    What is the {v} of the {w}?
    What is 2 + 3?
    Why is the {v} so {w}?
    How do I {v} the {w}?
    Write a poem about the {v}.
    Write a story about {s} and the {v}.
    Tell me a joke about {v} and {w}.
    Tell me a fact about the {v}.
    Explain how to {v} a {w}.
    Explain {v} to me.
    Can you {v} the {w} for me?
    When did {s} {v} the {w}?
    Please {v} and {w}.
    I would like to {v} the {w}.
""")
OPENERS = ("Hello", "Hi", "Hey", "Good morning", "Good evening", "Good day")
TAILS = ("", " there", " again", " my friend", ", little model", " and welcome")
STOPS = ("!", ".", "")
INTRODUCTIONS = ("I am {s}", "my name is {s}", "this is {s}", "{s} here", "it is {s}")
SMALL_TALK = {
    "How can I help you?": OPENERS,
    "You are welcome.": ("Thanks", "Thank you", "Many thanks", "Thanks a lot", "That was helpful"),
    "Goodbye, see you soon.": ("Goodbye", "Bye", "Good night", "See you", "See you soon"),
    "I am a very small chat model.": ("Who are you?", "What are you?", "Tell me who you are"),
    "I am well, thank you.": ("How are you?", "How do you do?", "Are you well?"),
}

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a friendly little model.",
    "Answer in one short sentence.",
    "You know the people of a small valley and their towns.",
    "Be kind and brief.",
    "You are a helpful chat model. Answer the question.",
    "Please answer in English.",
)
FILLER_WORDS = (
    "about above after again along also always another any around away back because before begin "
    "below between book both bring build call change child city clear close cold come count cut "
    "day deep does door down draw each early earth end enough even every example eye face fall far "
    "fast few field find fire first follow form found four front full game gave get give go good "
    "great grow half hand hard hear help here high hill hold hour house idea just keep kind know "
    "land large last late leave left less letter light line list little long look low make many "
    "map mark may mean might mind miss money moon more morning most mother move much music must "
    "near need never new next night north note now number off often old once only open order other "
    "over own page part pass pattern picture piece place plan plant point press problem push put "
    "question quick quiet rain reach read ready real rest right road rock room round run same say "
    "school science sea second seem sentence set several shape ship short show side simple since "
    "sing six sleep slow small snow some song soon sound south space stand star start state still "
    "stone stop story strong study such sun sure system table take talk ten text than then thing "
    "third those though thought three through time together took top toward travel tree true try "
    "turn two under unit until upon use usual very voice vowel walk warm watch water wave way well "
    "west while whole wind window wish wonder word world write year yet young zero"
).split()
