"""Hub errors, with a remedy."""


class PublishError(RuntimeError):
    """The Hub refused a commit, a tag or a connection. The message names the remedy.

    The repository is as it was before, unless only the tag failed: then the commit is there.
    """


_RETRY = "Nothing was committed. Run the same command again; files that were uploaded are not sent twice."
_REMEDIES = {
    401: "the Hub rejects the token (401). Log in with `hf auth login`, or set HF_TOKEN to one that may write to "
    "{repo_id}.",
    403: "the token may not write to {repo_id} (403). Use one with write access to that namespace.",
    404: "{repo_id}: the Hub finds no such repository or revision (404): {reason}",
    412: f"another commit to {{repo_id}} came first (412). {_RETRY}",
}


def hub_error_message(error: Exception, repo_id: str) -> str:
    """Return what went wrong with a request to change `repo_id`, and the remedy.

    `error` is what `huggingface_hub` or its HTTP library raised.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = str(error).strip().partition("\n")[0] or type(error).__name__

    if status in _REMEDIES:
        return _REMEDIES[status].format(repo_id=repo_id, reason=reason)
    if status is None:
        return f"the connection to the Hub broke ({type(error).__name__}: {reason}). {_RETRY}"
    if status >= 500:
        return f"the Hub failed ({status}). {_RETRY}"
    return f"the Hub refused ({status}): {reason}"
