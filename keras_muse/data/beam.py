"""`prepare` on a cluster: the same shards, written by Apache Beam."""

from keras_muse.data.preparation import Job

__all__ = ["prepare_with_beam"]


def prepare_with_beam(records, preset, folder, pipeline_options=None, **settings):
    """Does what `prepare` does on any runner of Apache Beam.

    With the same backend and batch size the shards are byte for byte those of
    `prepare`, and both go on with what the other began. Needs the extra `beam`. Workers
    read the pictures and the preset from where `records` and `preset` say, so these
    must be paths that all of them see.

    Args:
        records: see `prepare`.
        preset: see `prepare`.
        folder: str, a path that all workers see, such as `"gs://bucket/tokens"`.
        pipeline_options: optional list of str, options of Beam such as
            `["--runner=DataflowRunner", ...]`. Defaults to the local DirectRunner.
        **settings: `text`, `file_format`, `shard_size`, `batch_size`,
            `max_bad_fraction` of `prepare`.

    Returns:
        dict, what `dataset_info.json` says.

    Raises:
        ValueError, TooManyBadRecords, OSError: as `prepare`; the last two when all
            workers are done.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError("`prepare_with_beam` needs keras-muse[beam].") from error
    job = Job(records, str(preset), str(folder), **settings)
    job.begin()
    options = PipelineOptions(pipeline_options or ["--runner=DirectRunner"])
    with beam.Pipeline(options=options) as pipeline:
        (
            pipeline
            | beam.Create(job.unfinished())
            # Or one worker would get all of them.
            | beam.Reshuffle()
            | beam.Map(job.write)
        )
    job.list_bad(range(job.num_shards))
    return job.finish()
