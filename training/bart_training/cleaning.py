"""Rules for the corpus's texts: what is removed from a Debian description and synopsis, and which pairs are kept.

Several binary packages are often built from one source package, such as its library, headers and documentation. The
patterns recognize such variants, and sentences that say something about the packaging only.
"""

import re

from bart_training.noise import SENTENCE

MAX_CHARS = 2000  # the longest document, in characters
VARIANT = (  # words that say which variant a package is
    r"documentation|docs?\b|manuals?\b|man ?pages?|info pages?|javadoc|development|developers?\b|headers?\b|"
    r"includes?\b|shared|static|dynamic|runtime|run-time|debug\w*|symbols|profiling|examples?\b|demos?\b|data\b|"
    r"common|architecture|arch-|python ?[23](\.x)?\b|python module|libraries|library\b|source\b|sources\b|"
    r"binary|binaries|translations?\b|localization|tests?\b|test suite|plugins?\b|bindings?\b|modules?\b|"
    r"introspection|vapi|ghc|haskell|module|metapackage|crate|feature|transitional|dummy|empty"
)
BOILERPLATE = re.compile(  # sentences about the packaging, which are removed unless they are a description's first
    r"^(?:this|the) (?:\S+ ){0,3}?(?:meta-?|dummy |binary |library )?packages? (?:only |just |also |here )?"
    r"(?:contains?|provides?|includes?|installs?|ships|holds|is|has|gives|supplies|depends|pulls|enables|offers|consists)\b"
    r".{0,60}\b(?:" + VARIANT + r").{0,140}$"
    r"|^this is (?:the|a|an) .{0,60}\b(?:" + VARIANT + r").{0,60}(?:package|version|files?|library|flavou?r)\W*$"
    r"|^this is (?:the|a|an) .{0,40}\bpackage\W*$"
    r"|^(?:it|this package) (?:can|may) (?:be )?safely (?:be )?removed"
    r"|^(?:for )?(?:more|further|additional) (?:information|details?|documentation)\b"
    r"|^(?:please )?see (?:also )?(?:the )?(?:<|https?:|www\.|homepage|/usr)"
    r"|^(?:upstream )?(?:home ?page|web ?site|url|author|authors|license|copyright|upstream)\s*[:=]"
    r"|^(?:note|notes|warning|features?|features include|example|examples|for example|it includes|provides modules|"
    r"key features)\W*$"
    r"|^\W*(?:https?|ftp)://\S+\W*$",
    re.I,
)
EMPTY_OPENING = re.compile(  # sentences that are removed even where they are a description's first
    r"^(?:this|the) (?:meta-?|dummy |binary )?packages? (?:contains?|provides?|includes?|enables|installs|ships) "
    r"(?:(?:the|a|an|all|some|only|additional) )?(?:following binaries|source for the rust|feature\b|"
    r"(?:\S+ )?(?:development|documentation|docs|headers?|static|shared|runtime|debug\w*|example|common|data|"
    r"locali[sz]ation|translation)s? "
    r"?(?:files?|librar\w+|symbols|package)?\W*(?:for|of|needed|required|used|used by)?\b).{0,90}$",
    re.I,
)
SKIPPED_SECTIONS = {"oldlibs", "debug"}
SKIPPED_SYNOPSIS = re.compile(  # synopses of packages without content that can be described
    r"\b(transitional|dummy|meta-?\s?package|empty package|debug(ging)? (symbols?|info\w*|package)|"
    r"virtual package|depends on|dependency package|detached signature)\b",
    re.I,
)
PACKAGING_NOUN = (  # words that a synopsis adds to tell variants apart
    r"(?:architecture|arch|independent|indep|dependent|common|core|main|shared|static|runtime|run-time|development|devel|"
    r"dev|debug\w*|documentation|docs?|api|header|headers|library|libraries|librairies|lib|libs|files?|data|package|"
    r"examples?|symbols?|support|html|pdf|manual|reference|profiling|transitional|python|python3|python\s?[23](?:\.x)?|"
    r"version|module|modules|rust|code|binary|binaries|tools?|utilities|programs?|server|client|plugins?|tests?|source|"
    r"and|for|with|the|of|kit|only|c|c\+\+|gui|cli|misc)"
)
PACKAGING_TAIL = re.compile(r"\s*(?:\s[-–—]+\s*|[:;,]\s+|\s\()(?:" + PACKAGING_NOUN + r"[\s/&,-]*)+\)?\.?$", re.I)
VARIANT_NAME = re.compile(  # names of packages that are a variant
    r"^gir1\.2-|-(doc|docs|dbg|dbgsym|prof|examples?|data|common|l10n\S*|i18n|dev|headers|tests?|udeb|source|"
    r"src|java-doc|manual|html|locales?|lang\S*)(-\S+)?$"
)
VARIANT_SYNOPSIS = re.compile(  # synopses of packages that are a variant
    r"\b(development|headers?|documentation|docs|introspection|shared librar\w+|runtime|debug\w*|profiling|examples|"
    r"data files|common files|shared files|transitional|architecture|translations?|source code|test suite)\b",
    re.I,
)


def paragraphs(body: str) -> list[str]:
    """The paragraphs of a long description, each as one line.

    By Debian Policy 5.6.13, a line begins with one space, or with two if it is to be shown verbatim, as in a list. The
    line ' .' stands for a blank line.
    """
    paragraph_lines: list[list[str]] = [[]]
    for line in body.split("\n"):
        text = line[1:].strip()
        if text in (".", ""):
            paragraph_lines.append([])
        else:
            paragraph_lines[-1].append(text)
    return [" ".join(" ".join(lines).split()) for lines in paragraph_lines if lines]


def clean_synopsis(synopsis: str) -> str:
    """The synopsis without the tail that tells one package of a source from the others, such as "- development files".

    If fewer than three words would be left, the tail stays.
    """
    synopsis = " ".join(synopsis.split())
    shorter = PACKAGING_TAIL.sub("", synopsis)
    return (shorter if len(shorter.split()) >= 3 else synopsis).rstrip(" .;,:-")


def cut(document: str) -> str:
    """At most MAX_CHARS of a document, cut after a sentence if one ends in their second half, else after a word."""
    if len(document) <= MAX_CHARS:
        return document
    head = document[:MAX_CHARS]
    ends = [match.start() for match in SENTENCE.finditer(head)]
    if ends and ends[-1] > MAX_CHARS // 2:
        return head[: ends[-1]].rstrip()
    return head.rsplit(" ", 1)[0]


def worth_learning(document: str, summary: str) -> bool:
    """Whether the document is long enough, mostly made of letters, and longer than its summary, which is short."""
    letters = sum(c.isalpha() or c == " " for c in document)
    return (
        len(document.split()) >= 12
        and len(document) >= max(60, 1.2 * len(summary))
        and letters >= 0.7 * len(document)
        and len(summary.split()) >= 2
        and len(summary) <= 100
    )


def normalized(text: str) -> str:
    """The text's words of ASCII letters and digits, in lower case, for finding duplicates."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
