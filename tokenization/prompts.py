"""Special tokens and the paper's two instructions (input format: `<sep>{instruction}<sep>{snippet}<cls>`).

The tokenizer's post-processor writes the outer `<sep> … <cls>`; a prompt below is what stands between: the
instruction and the inner `<sep>`. Put it in front of the snippet before tokenizing.
"""

SEP, CLS, MASK, PAD = "<sep>", "<cls>", "<mask>", "<pad>"

#: Display names, as they stand in the instruction; keys are what datasets carry in their `language` column.
LANGUAGES = {
    "python": "Python",
    "java": "Java",
    "javascript": "JavaScript",
    "go": "Go",
    "ruby": "Ruby",
    "php": "PHP",
    "c": "C",
    "cpp": "C++",
    "csharp": "C#",
}
#: The language of code in an unknown programming language. Queries without a language are natural language.
UNKNOWN_LANGUAGE = "code"
#: What a dataset's `language` column calls natural language.
NATURAL_LANGUAGES = frozenset({"en", "english", "text", "nl", "natural language"})
_ALIASES = {"c++": "cpp", "c#": "csharp", "cs": "csharp", "js": "javascript", "py": "python", "golang": "go"}


def text_prompt() -> str:
    """The prompt of a natural-language query."""
    return f"Represent this code description for retrieving supporting snippets of code:{SEP}"


def code_prompt(language: str | None = None) -> str:
    """The prompt of a code snippet; without a language (None or "") the language word is left out.

    A language that the table above does not name is written as it stands.
    """
    key = (language or "").strip()
    key = _ALIASES.get(key.lower(), key.lower() if key.lower() in LANGUAGES else key)
    name = LANGUAGES.get(key, key)
    return f"Represent this {name + ' ' if name else ''}code snippet for retrieval:{SEP}"


def prompt_for(language: str, query: bool) -> str:
    """Return the prompt for a query or a document in `language`.

    Without a language, a query is natural language and a document is code.
    """
    if language.strip().lower() in NATURAL_LANGUAGES or (query and not language.strip()):
        return text_prompt()
    return code_prompt("" if language == UNKNOWN_LANGUAGE else language)
