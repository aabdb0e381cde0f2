"""Special tokens and the paper's two instructions (input format: `<sep>{instruction}<sep>{snippet}<cls>`).

The tokenizer's post-processor writes the outer `<sep> … <cls>`. A prompt is the instruction with the inner
`<sep>`. `mose.tokenization.inputs` joins it to the snippet.
"""

SEP, CLS, MASK, PAD = "<sep>", "<cls>", "<mask>", "<pad>"

#: How both instructions start.
PROMPT_START = "Represent this "
#: A regular expression of an instruction, in any language with a name of up to 40 characters.
INSTRUCTION = (
    PROMPT_START + r"(?:code description for retrieving supporting snippets of code"
    r"|(?:[^\n]{1,40} )?code snippet for retrieval):"
)

#: Keys in the `language` column of datasets -> display names in the instruction.
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
    "typescript": "TypeScript",
    "rust": "Rust",
    "kotlin": "Kotlin",
    "scala": "Scala",
    "swift": "Swift",
    "bash": "Bash",
    "lua": "Lua",
    "sql": "SQL",
}
#: The language of code in an unknown programming language. Queries without a language are natural language.
UNKNOWN_LANGUAGE = "code"
#: Names of natural language in a dataset's `language` column.
NATURAL_LANGUAGES = frozenset({"en", "english", "text", "nl", "natural language"})
_ALIASES = {"c++": "cpp", "c#": "csharp", "cs": "csharp", "js": "javascript", "py": "python", "golang": "go"}


def text_prompt() -> str:
    """Return the prompt of a natural-language query."""
    return f"Represent this code description for retrieving supporting snippets of code:{SEP}"


def code_prompt(language: str | None = None) -> str:
    """Return the prompt of a code snippet. Without a language (None or ""), the prompt names none.

    A language that is not in `LANGUAGES` is inserted verbatim.
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
