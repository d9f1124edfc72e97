// Package namespaces says which namespaces a container gets: which are made,
// which are joined, and how user and group ids are mapped.
//
// There are two ways to start. The fast one makes all new namespaces with the
// clone(2) of the init itself. A user namespace, new or joined, and a new time
// namespace do not allow that: the runtime may not fork with CLONE_NEWUSER (fork
// would copy its address space), id maps and clock offsets must be written
// between making the namespace and using it, and the other namespaces must
// belong to the user namespace. Nor does a pid namespace to join: its other
// processes must not see one that still has descriptors and the root of the
// runtime. Then the init program runs a first process that makes or joins those,
// lets its parent write the maps, and clones the real init as its own sibling.
// See [Set.Staged].
package namespaces
