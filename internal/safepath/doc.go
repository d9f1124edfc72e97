// Package safepath works on paths inside a directory tree that somebody hostile
// wrote, or is rewriting at this moment: a container's root, an image layer
// being unpacked, a container's upper directory being deleted.
//
// Two rules hold everywhere:
//
//   - A path of several components is resolved by openat2(2) with
//     RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS ([linux.OpenInRoot]) and yields a
//     descriptor. Joining strings and calling open(2) on the result is unsafe
//     however carefully the string was checked: the tree changes between the
//     check and the use (CVE-2018-15664, CVE-2021-30465).
//   - What is created, changed or deleted is named by a directory descriptor and
//     one component, and never through a symbolic link in that component.
//
// What this does not give: a directory that was opened stays valid when somebody
// moves it. Who can move a directory out of the tree has write access outside of
// it already.
//
// Arguments named unsafePath may be any string. Descriptors are plain ints,
// close-on-exec, and belong to the caller.
package safepath
