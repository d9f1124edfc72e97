package service

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// PermissionError says that we may not change nftables here.
type PermissionError struct {
	Op  string
	Err error
}

func (e *PermissionError) Error() string { return e.Op + ": " + e.Err.Error() }
func (e *PermissionError) Unwrap() error { return e.Err }

// Hint says how to go on.
func (e *PermissionError) Hint() string {
	return "rules need CAP_NET_ADMIN in the network namespace: run as root, or inside a user and network namespace of your own"
}

// ModuleError says that the kernel lacks something that rules need.
type ModuleError struct {
	Op      string
	Modules []string
	Err     error
}

func (e *ModuleError) Error() string {
	return fmt.Sprintf("%s: %v: the kernel lacks %s", e.Op, e.Err, strings.Join(e.Modules, ", "))
}
func (e *ModuleError) Unwrap() error { return e.Err }

// Is makes a missing module an unsupported operation.
func (e *ModuleError) Is(target error) bool { return target == errors.ErrUnsupported }

// Hint says how to go on.
func (e *ModuleError) Hint() string {
	return "load it: modprobe " + strings.Join(e.Modules, " ") + " (in a container or a minimal kernel: on the host, or build it in)"
}

// explain gives an error of nftables a type if people can do something about it.
func explain(op string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &PermissionError{op, err}
	case errors.Is(err, syscall.EPROTONOSUPPORT), errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.ECONNREFUSED):
		return &ModuleError{op, []string{"nfnetlink", "nf_tables"}, err}
	}
	return fmt.Errorf("%s: %w", op, err)
}

// part is something that rules need, and the module that has it.
type part struct {
	module string
	typ    nftables.ChainType
	hook   *nftables.ChainHook
	exprs  []expr.Any
}

func parts() []part {
	nat, filter, pre := nftables.ChainTypeNAT, nftables.ChainTypeFilter, nftables.ChainHookPrerouting
	load := func(f family) []expr.Any {
		return append(isFamily(f), f.dest(0), &expr.Immediate{Register: reg(f.words), Data: []byte{0, 1}})
	}
	v4 := families()[0]
	return []part{
		{"nf_tables", filter, pre, nil},
		{"nft_chain_nat", nat, pre, nil},
		{"nft_nat", nat, pre, append(load(v4), v4.dnat(0))},
		{"nft_masq", nat, nftables.ChainHookPostrouting, []expr.Any{&expr.Masq{FullyRandom: true}}},
		{"nft_numgen", filter, pre, []expr.Any{&expr.Numgen{Register: reg(0), Modulus: 60, Type: unix.NFT_NG_RANDOM}}},
		{"nft_fib_inet", filter, pre, local()},
		{"nft_ct", filter, pre, ctState(expr.CtStateBitINVALID, expr.VerdictAccept)},
		{"nft_reject_inet", filter, pre, refuseChain()[2].exprs},
	}
}

// diagnose finds out which parts the kernel lacks: each is put into a table of its
// own, which goes in the same transaction, so that nothing ever exists. try runs one.
func diagnose(try func(part) error) []string {
	var missing []string
	for _, p := range parts() {
		err := try(p)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EPROTONOSUPPORT) {
			missing = append(missing, p.module)
		}
	}
	return missing
}

// try puts one part into the kernel and takes it out again.
func (k *kernel) try(table string, p part) error {
	return k.transaction(func(c *nftables.Conn) error {
		accept := nftables.ChainPolicyAccept
		t := c.AddTable(&nftables.Table{Name: table + "_probe", Family: nftables.TableFamilyINet})
		ch := c.AddChain(&nftables.Chain{Name: "probe", Table: t, Type: p.typ, Hooknum: p.hook, Priority: nftables.ChainPriorityFilter, Policy: &accept})
		if p.exprs != nil {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: p.exprs})
		}
		c.DelTable(t)
		return nil
	})
}

// refused makes an error of a transaction that cannot be our state's fault. If the
// kernel did not know something, it says which module that is in.
func (k *kernel) refused(table, op string, err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EOPNOTSUPP) {
		if missing := diagnose(func(p part) error { return k.try(table, p) }); len(missing) > 0 {
			return &ModuleError{op, missing, err}
		}
	}
	return explain(op, err)
}
