"""The engine: everything that knows diffusers.

    kinds/      what a job needs: its images, how they become keyword arguments (pure)
    models      what serves it: repositories, pipeline classes, defaults, sizes (data)
    registry    both together: what is wrong with a spec, and the task it becomes
    images, masks, canny    input pictures, made ready
    hub         where the weights are, and a plain sentence when they are not
    loading     pipelines in memory, shared where they are the same bytes
    gpu         the one place that calls a pipeline
    gpu_thread  the executor: one thread, one slot, every task answered once

`kinds`, `models`, `registry` and `hub` start without torch, diffusers, numpy and Pillow.
"""
