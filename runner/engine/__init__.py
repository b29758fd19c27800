"""The engine: all code that knows diffusers, torch and the models.

    registry, entries, models   what each model can do (data), and the task that a spec becomes
    kinds/      one file per kind: its input images, and the arguments of the pipeline (pure)
    families/   what the pipelines of one family share: encoding and decoding
    hub/        where weights are, fetching them, and what to do where they are missing
    memory/     how a model is held on this machine, planned before it is loaded
    weights/    loading, quantising, LoRAs, and the cache of loaded pipelines
    prompts/    encoding prompts and keeping their embeddings
    pictures/   input images and masks, edge and depth maps
    gpu         the only call of a pipeline
    gpu_thread  the executor: one thread, one slot, every task answered once
    tiny/       the built-in model and the recipe that trains it

No file outside `tiny/` imports torch, diffusers, transformers or numpy at its top, which would cost
seconds of every start.
"""
