package main

import (
	"fmt"
	"strings"

	"github.com/minirun/minirun/runtime"
	"github.com/minirun/minirun/runtime/bundle"
)

// explainOptions are the flags of explain.
type explainOptions struct {
	launchOptions
	program bool
}

func explainFlags(*app) *flagSet { return new(explainOptions).flags() }

func (o *explainOptions) flags() *flagSet {
	f := newFlags("explain")
	f.Bool(&o.program, "program", 0, "print the program of system calls too")
	o.launchOptions.add(f)
	return f
}

// explain prints what create would do. Nothing is made or changed.
func (a *app) explain(args []string) error {
	var o explainOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	id := "ID"
	var b *bundle.Bundle
	po := runtime.PlanOptions{PreserveFDs: o.preserve, NoPivot: o.noPivot, NoNewKeyring: o.noKeyring}
	if o.image.ref != "" {
		if b, po, id, err = a.explainImage(f, &o, args); err != nil {
			return err
		}
	} else {
		if err := o.image.refuse(f); err != nil {
			return err
		}
		if len(args) > 0 {
			id = args[0]
		}
		if b, err = bundle.Load(o.bundle); err != nil {
			return err
		}
	}
	po.DenialReport, po.Rootless, po.Systemd = o.denials, a.rootless, a.systemd
	plan, err := runtime.NewPlan(id, b, po)
	if err != nil {
		return err
	}
	text, err := describePlan(plan, o.program)
	if err != nil {
		return err
	}
	return stdout(text)
}

func describePlan(p *runtime.Plan, program bool) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "container %s from bundle %s\n", p.ID, p.Bundle)
	fmt.Fprintf(&b, "\nthe runtime\n  record it in the state directory\n  make the cgroup %s\n", p.Cgroup)
	if names := p.NewNamespaces(); names != "" {
		fmt.Fprintf(&b, "  start its init in the cgroup, in new namespaces: %s\n", names)
	}
	for _, line := range strings.Split(strings.TrimRight(p.Limits.String(), "\n"), "\n") {
		if line != "" {
			fmt.Fprintf(&b, "  meanwhile: %s\n", line)
		}
	}
	fmt.Fprintf(&b, "\nits init\n")
	phase := ""
	for i, s := range p.Steps {
		if s.Phase() != phase {
			phase = s.Phase()
			fmt.Fprintf(&b, "  %s\n", phase)
		}
		fmt.Fprintf(&b, "    %2d. %s\n", i+1, s.String())
		if why := s.Why(); why != "" {
			fmt.Fprintf(&b, "        because: %s\n", why)
		}
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(&b, "\nwarning: %s\n", w)
	}
	image, err := p.Image()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "\nThe init is a program of %d system calls, %d bytes. Nothing was touched.\n", image.Ops(), image.Size())
	if program {
		b.WriteString("\n" + image.Listing())
	}
	return b.String(), nil
}

// explainImage makes the bundle that run would make for the image, from the
// unpacked layers and without a snapshot.
func (a *app) explainImage(f *flagSet, o *explainOptions, args []string) (*bundle.Bundle, runtime.PlanOptions, string, error) {
	id := "ID"
	if !f.dashes && len(args) > 0 {
		id, args = args[0], args[1:]
	}
	o.image.container.Command = args
	image, err := a.lookUpImage(o.image.ref)
	if err != nil {
		return nil, runtime.PlanOptions{}, "", err
	}
	s, err := a.store()
	if err == nil {
		err = a.network(f, s, &o.image)
	}
	if err != nil {
		return nil, runtime.PlanOptions{}, "", err
	}
	b, po, err := a.images().Explain(id, image, &o.image.container)
	return b, po, id, err
}
