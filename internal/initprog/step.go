package initprog

// A Step is one named piece of a plan: what will be done to build a container,
// why, and the ops that do it. Steps are data; making one touches nothing.
type Step interface {
	Phase() string  // the stage it belongs to: "mounts"
	String() string // what it does, in one line: "mount proc on /proc nosuid,nodev"
	Why() string    // the reason, where it is not evident; may be empty
	Emit(b *Builder)
}
