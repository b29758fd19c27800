"""The MCP server: tools that write specs, read statuses, and search the gallery.

    server           the request handlers on the SDK's server, and stdio
    http             streamable HTTP: Host, Origin, token and size are checked before anything else
    tools            the tools: names, descriptions, schemas
    arguments        argument schemas, derived from the schemas of the kinds, and their validation
    output_schemas   the schemas of the results
    submission       the tools that make pictures: check everything, then write one spec
    inputs           the images that a call names or carries, copied into the inbox where needed
    jobs             flux_get_job and flux_cancel_job
    pictures         finished pictures as image content and links
    search           flux_search_gallery
    resources        flux:// addresses
    prompts          the prompt, and completions
    runner_presence  whether a runner is running, and starting one

It writes only into the inbox (with `--autostart`, a runner's log too) and reads the outbox, the
packs, the gallery and input images. Nothing here imports torch, numpy or diffusers, and the
gallery is not read before the first search.
"""
