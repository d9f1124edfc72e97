package main

// pause freezes all processes of a container.
func (a *app) pause(args []string) error {
	f := newFlags("pause")
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	c, err := a.container(f, args)
	if err != nil {
		return err
	}
	return c.Pause()
}

// resume lets them go on.
func (a *app) resume(args []string) error {
	f := newFlags("resume")
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	c, err := a.container(f, args)
	if err != nil {
		return err
	}
	return c.Resume()
}
