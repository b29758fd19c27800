"""The MCP door: eight tools that write specs, read statuses, and search the gallery.

    server      the server on the SDK: who answers what, how outcomes become answers, stdio
    http        streamable HTTP: Host, Origin, token and size are checked before anything else
    tools       the eight tools: names, words for models, schemas
    arguments   argument schemas, derived from the schemas of the kinds, and their checking
    shapes      the schemas of the answers
    submission  the five tools that make pictures: check everything, then write one spec
    inputs      the images that a call names or carries, on their way into the inbox
    jobs        flux_get_job and flux_cancel_job
    pictures    finished pictures as image content and links
    searching   flux_search_gallery
    resources   flux:// addresses        prompts   the prompt and its completions
    attendance  whether a runner is there, and starting one

It writes only the inbox and reads only the outbox, the packs and the gallery. Nothing here imports
torch, numpy or diffusers, and the gallery is not touched before the first search.
"""
