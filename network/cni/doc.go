// Package cni attaches containers to networks of CNI plugins
// (https://github.com/containernetworking/cni), with libcni: configurations are
// those of /etc/cni/net.d or NETCONFPATH, plugins those of CNI_PATH, /opt/cni/bin
// and /usr/lib/cni.
//
// What was used to add a container is kept beside its record before the first
// plugin runs: a later Del runs the same plugins with the same configuration,
// whatever has become of the files meanwhile, and whether Add has come to its end.
package cni
