"""The custom resources as typed models: ModelService, WorkerPool, GPUClass. CRDs and reference follow from them."""
