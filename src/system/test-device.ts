/**
 * A simulated device for tests (`test/native/sim.cc`): `--device sim` exists only where this variable names its
 * compiled addon, which registers it with libtorch.
 */
export const simulatedDevice = (): string | undefined => process.env['DINOV2_TEST_SIM'] || undefined
