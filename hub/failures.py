"""What goes wrong between us and the Hub, said so that one knows what to do."""


class PublishError(RuntimeError):
    """The Hub did not take it; the message says what to do. The repository is as it was, but for a
    tag: where it could not be set, the commit stands."""


def advice(error: Exception, repo_id: str) -> str:
    """What went wrong between us and the Hub, and what to do about it."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    again = "nothing was committed; run the same command again, and what was uploaded is not sent twice"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if status == 401:
        return (
            "the Hub does not know the token (401): log in with `hf auth login`, or set HF_TOKEN to a token that "
            f"may write to {repo_id}"
        )
    if status == 403:
        return f"the token may not write to {repo_id} (403): use one with write access to that namespace"
    if status == 412:
        return f"somebody else has committed to {repo_id} meanwhile (412): {again}"
    if status == 404:
        return f"{repo_id}: the Hub finds no such repository or revision (404): {reason}"
    if status is not None and status >= 500:
        return f"the Hub failed ({status}): {again}"
    if status is not None:
        return f"the Hub refused ({status}): {reason}"
    return f"the connection to the Hub broke ({type(error).__name__}: {reason}): {again}"
