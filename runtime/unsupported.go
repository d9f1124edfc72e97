package runtime

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Unsupported tells what in a configuration this version cannot do, as create
// would: errors that are errors.ErrUnsupported. It is for those who list features.
func Unsupported(s *specs.Spec) error { return unsupported(s) }
