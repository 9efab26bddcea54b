package devices

// Review has the poller look which devices are muted now. It never waits.
func (p *Poller) Review() {
	select {
	case p.reviews <- struct{}{}:
	default: // it will look anyway
	}
}

// reviewMuted sets devices aside that have been muted, and asks those again that
// are not any more. What is under way to one that was muted comes to its end, and
// is not believed.
func (p *Poller) reviewMuted() {
	if p.cfg.Muted == nil {
		return
	}
	for _, h := range p.health {
		was := h.barred
		h.barred = p.cfg.Muted(h.ID)
		switch {
		case was == nil && h.barred != nil:
			p.setAside(h)
		case was != nil && h.barred == nil:
			p.askAgain(h)
		case was != nil && was.Error() != h.barred.Error():
			p.put(h, NewBatch(h.Device)) // with what is said of it now
		}
	}
}

func (p *Poller) setAside(h *health) {
	h.muted = true // its return is not worth a line
	if p.sched != nil {
		p.sched.leave(h.index)
	}
	p.log.Info("device muted; it is not asked meanwhile", append(h.attrs(), "reason", h.barred)...)
	p.setAway(h, Maintenance, h.barred)
}

// askAgain asks a device for everything at once, as when it comes back.
func (p *Poller) askAgain(h *health) {
	h.misses, h.fresh = 0, p.now()
	p.log.Info("device is not muted any more; it is asked again", h.attrs()...)
	if p.sched != nil {
		p.sched.enter(h.index, h.fresh)
		p.wakeQueries(h)
	}
	switch {
	case p.port.down:
		p.mute(h, p.port.err)
	case h.WrittenOnly():
		p.setState(h, Online)
		p.put(h, NewBatch(h.Device))
	}
}
