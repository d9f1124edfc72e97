package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// bootModules are what the guest's init needs to reach its files and its ports.
var bootModules = []string{"virtio_pci", "virtio_console", "virtio_blk", "virtiofs", "overlay", "ext4", "virtio_rng"}

// containerModules are what containers, their networks and other engines use.
// Kernels may lack some.
var containerModules = strings.Fields(`fuse loop tun dummy veth bridge br_netfilter macvlan ipvlan vxlan
	nf_tables nf_conntrack nf_nat nft_chain_nat nft_ct nft_nat nft_masq nft_redir nft_compat nft_limit nft_log
	nft_reject_inet nft_fib_inet nft_numgen nft_hash
	x_tables ip_tables ip6_tables iptable_filter iptable_nat ip6table_filter ip6table_nat
	xt_conntrack xt_MASQUERADE xt_addrtype xt_comment xt_mark xt_nat xt_tcpudp xt_multiport
	erofs bfq`)

// moduleOrder returns the files of the named modules and of everything they
// depend on, each once and after its dependencies, from modules.dep(5). Modules
// built into the kernel are left out. A module that the kernel does not have at
// all is in missing.
func moduleOrder(dep, builtin string, names []string) (files, missing []string) {
	needs := make(map[string][]string)
	byName := make(map[string]string)
	for line := range strings.Lines(dep) {
		file, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		needs[file] = strings.Fields(rest)
		byName[moduleName(file)] = file
	}
	inKernel := make(map[string]bool)
	for line := range strings.Lines(builtin) {
		inKernel[moduleName(strings.TrimSpace(line))] = true
	}
	var load func(file string)
	load = func(file string) {
		if slices.Contains(files, file) {
			return
		}
		for _, d := range needs[file] { // depmod refuses cycles
			load(d)
		}
		files = append(files, file)
	}
	for _, name := range names {
		file, ok := byName[name]
		switch {
		case ok:
			load(file)
		case !inKernel[name]:
			missing = append(missing, name)
		}
	}
	return files, missing
}

// moduleName is "nf_tables" for kernel/net/netfilter/nf-tables.ko.xz.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModule returns the content of a module file, decompressed: not every kernel
// can do that itself.
func readModule(file string) ([]byte, error) {
	switch filepath.Ext(file) {
	case ".ko":
		return os.ReadFile(file)
	case ".xz":
		out, err := exec.Command("xz", "-dc", file).Output()
		if err != nil {
			return nil, fmt.Errorf("decompress %q with xz: %w", file, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("module %q is compressed in an unknown way", file)
}
