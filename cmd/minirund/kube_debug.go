package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/orchestrate/client"
	"github.com/urfave/cli/v2"
)

func kubeDebug(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "debug", Usage: "run one more container in a pod that runs", ArgsUsage: "POD --image IMAGE [-- COMMAND [ARGUMENT...]]",
		Flags: []cli.Flag{
			namespaceFlag(),
			&cli.StringFlag{Name: "image", Usage: "run `IMAGE`"},
			&cli.StringFlag{Name: "target", Usage: "see the processes of `CONTAINER`"},
			&cli.StringFlag{Name: "container", Aliases: []string{"c"}, Usage: "`NAME` of the new container (default: one that is free)"},
			&cli.StringSliceFlag{Name: "env", Usage: "set `NAME=VALUE`. Repeatable"},
			&cli.StringFlag{Name: "image-pull-policy", Usage: "`POLICY` is Always, IfNotPresent or Never"},
			&cli.StringFlag{Name: "profile", Value: "general", Usage: "what it may do: `PROFILE` is general (also trace processes), baseline, restricted, netadmin or sysadmin (everything)"},
			&cli.BoolFlag{Name: "stdin", Aliases: []string{"i"}, Usage: "keep standard input open, and attach to it"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the program a terminal"},
		},
	}, 1, -1, (*kube).debug)
}

func (k *kube) debug() error {
	own, command, _ := before(k.c.Args().Slice())
	if len(own) != 1 || k.c.String("image") == "" {
		return k.usage("want POD --image IMAGE [-- COMMAND [ARGUMENT...]]")
	}
	e, err := k.debugger(command)
	if err != nil {
		return err
	}
	p, r, err := k.pod(own[0])
	if err != nil {
		return err
	}
	order := []any{}
	for _, name := range containerNames(p) {
		if name == e.Name {
			return fmt.Errorf("%s has a container %s already", r, name)
		}
	}
	for i := range p.Spec.EphemeralContainers {
		order = append(order, object{"name": p.Spec.EphemeralContainers[i].Name})
	}
	order = append(order, object{"name": e.Name})
	text, err := json.Marshal(object{"spec": object{"ephemeralContainers": []any{e}, "$setElementOrder/ephemeralContainers": order}})
	if err != nil {
		return err
	}
	if err := k.patch(r, "strategic-merge-patch+json", text, url.Values{"fieldManager": {"minirun"}}, nil, "ephemeralcontainers"); err != nil {
		return err
	}
	if !e.Stdin {
		k.did(r, "has the container "+e.Name)
		return nil
	}
	fmt.Fprintf(k.u.err, "Container %s of pod %s: if you don't see a command prompt, try pressing enter.\n", e.Name, p.Name)
	ended, err := k.awaitDebugger(r, e.Name)
	if err != nil {
		return err
	}
	if ended == nil {
		err := k.program("pod/"+p.Name, "attach", url.Values{"container": {e.Name}}, true, e.TTY)
		var st *client.StatusError
		if !errors.As(err, &st) || st.Code != 400 {
			return err
		}
		// It may have ended in between.
		if ended, _ = k.awaitDebugger(r, e.Name); ended == nil {
			return err
		}
	}
	err = k.copyLogs([]source{{p.Name, e.Name}}, url.Values{})
	if err == nil && ended.ExitCode != 0 {
		err = exitStatus(int(ended.ExitCode))
	}
	return err
}

// debugger is the container that the flags describe.
func (k *kube) debugger(command []string) (*corev1.EphemeralContainer, error) {
	e := &corev1.EphemeralContainer{TargetContainerName: k.c.String("target")}
	e.Name, e.Image, e.ImagePullPolicy = k.c.String("container"), k.c.String("image"), corev1.PullPolicy(k.c.String("image-pull-policy"))
	if e.Name == "" {
		e.Name = "debugger-" + strings.ToLower(rand.Text()[:5])
	}
	e.Command, e.Stdin, e.TTY = command, k.c.Bool("stdin"), k.c.Bool("tty")
	for _, v := range k.c.StringSlice("env") {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return nil, k.usage("--env %q: want NAME=VALUE", v)
		}
		e.Env = append(e.Env, corev1.EnvVar{Name: name, Value: value})
	}
	yes, no := true, false
	add := func(names ...corev1.Capability) *corev1.SecurityContext {
		return &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: names}}
	}
	switch p := k.c.String("profile"); p {
	case "general":
		e.SecurityContext = add("SYS_PTRACE")
	case "baseline":
	case "netadmin":
		e.SecurityContext = add("NET_ADMIN", "NET_RAW")
	case "sysadmin":
		e.SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	case "restricted":
		e.SecurityContext = &corev1.SecurityContext{
			RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
	default:
		return nil, k.usage("unknown profile %q, want general, baseline, restricted, netadmin or sysadmin", p)
	}
	return e, nil
}

// awaitDebugger waits until a container runs, or gives how it has ended.
func (k *kube) awaitDebugger(r ref, name string) (ended *corev1.ContainerStateTerminated, err error) {
	said := ""
	err = k.until(k.ctx, r, func(o object) (bool, error) {
		if o == nil {
			return false, errors.New("the pod is gone")
		}
		p, err := asPod(o)
		if err != nil {
			return false, err
		}
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			return false, errors.New("the pod has ended")
		}
		st := containerStatus(p, name)
		if st == nil {
			return false, nil
		}
		if w := st.State.Waiting; w != nil && w.Message != "" && w.Reason+w.Message != said {
			said = w.Reason + w.Message
			k.u.warn("container %s: %s: %s", name, w.Reason, w.Message)
		}
		ended = st.State.Terminated
		return ended != nil || st.State.Running != nil, nil
	})
	return ended, err
}
