from flux_tasks.local.engines.classical.blur import Deblurred, deblur
