package main

import (
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mounts changes the mounts of a running container, with the arguments of crun.
func (a *app) mounts(args []string) error {
	f := newFlags("mounts")
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	if len(args) != 3 || args[0] != "add" && args[0] != "remove" {
		return f.fail("want add or remove, a container ID and a file with mounts (- for standard input)")
	}
	list, err := readMounts(args[2])
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return f.fail("no mounts in %s: want a list as config.json has it under \"mounts\"", args[2])
	}
	c, err := a.container(f, args[1:2])
	if err != nil {
		return err
	}
	if args[0] == "add" {
		return c.AddMounts(list)
	}
	return c.RemoveMounts(list)
}

func readMounts(file string) ([]specs.Mount, error) {
	var raw []byte
	var err error
	if file == "-" {
		raw, err = linux.ReadAll(0, bundle.MaxConfigSize)
	} else {
		raw, err = linux.ReadFile(file, bundle.MaxConfigSize)
	}
	if err != nil {
		return nil, err
	}
	return bundle.ParseMounts(raw)
}
