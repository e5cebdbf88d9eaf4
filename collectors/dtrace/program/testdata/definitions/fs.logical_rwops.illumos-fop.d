# by  where true
#pragma D option quiet
#pragma D option aggrate=10hz
#pragma D option aggsize=4m
#pragma D option bufsize=256k
#pragma D option cleanrate=101hz
#pragma D option dynvarsize=32m
#pragma D option strsize=128
#pragma D option switchrate=10hz
BEGIN {
  iapi_end = timestamp + 60000000000;
  iapi_second = walltimestamp / 1000000000;
  printf("S\n");
}
fbt:genunix:fop_read:return,
fbt:genunix:fop_write:return {
  @total[""] = count();
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printf("E\n");
  trunc(@total);
}

# by execname, pid, ppid, latency where execname != "x" && pid != "17" && psargs != "x" && ppid != "17" && pexecname != "x" && ppsargs != "x" && fstype != "sockfs" && optype != "read" && latency >= 5 && size >= 5 && offset >= 5
#pragma D option quiet
#pragma D option aggrate=10hz
#pragma D option aggsize=4m
#pragma D option bufsize=256k
#pragma D option cleanrate=101hz
#pragma D option dynvarsize=32m
#pragma D option strsize=128
#pragma D option switchrate=10hz
BEGIN {
  iapi_end = timestamp + 60000000000;
  iapi_second = walltimestamp / 1000000000;
  printf("S\n");
}
fbt:genunix:fop_read:entry,
fbt:genunix:fop_write:entry /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && ((uint64_t)(ppid) != 17) && ((stringof(curthread->t_procp->p_parent->p_user.u_comm)) != "x") && ((stringof(curthread->t_procp->p_parent->p_user.u_psargs)) != "x") && ((probefunc == "fop_read" ? "read" : "write") != "read")/ {
  self->s_fs = stringof(args[0]->v_op->vnop_name);
  self->s_offset = (+args[1]->_uio_offset._f) + 1;
  self->s_size = (+args[1]->uio_resid);
  self->s_t0 = timestamp;
}
fbt:genunix:fop_read:return,
fbt:genunix:fop_write:return /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_fs != 0) && (self->s_offset != 0) && (self->s_size != 0) && (self->s_t0 != 0)/ {
  this->f_latency = (uint64_t)(timestamp - self->s_t0);
  this->f_size = (int64_t)(self->s_size);
  this->f_offset = (int64_t)(self->s_offset - 1);
  this->step = (uint64_t)((((this->f_latency < 1000) || (this->f_latency >= 1000000000000)) ? 0 : ((this->f_latency < 10000000) ? ((this->f_latency < 100000) ? ((this->f_latency < 10000) ? 100 : 1000) : ((this->f_latency < 1000000) ? 10000 : 100000)) : ((this->f_latency < 1000000000) ? ((this->f_latency < 100000000) ? 1000000 : 10000000) : ((this->f_latency < 10000000000) ? 100000000 : ((this->f_latency < 100000000000) ? 1000000000 : 10000000000))))));
  this->low = (uint64_t)(((this->step > 0) ? ((this->f_latency / this->step) * this->step) : ((this->f_latency < 1000) ? 0 : 1000000000000)));
}
fbt:genunix:fop_read:return,
fbt:genunix:fop_write:return /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_fs != 0) && (self->s_offset != 0) && (self->s_size != 0) && (self->s_t0 != 0) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && ((uint64_t)(ppid) != 17) && ((stringof(curthread->t_procp->p_parent->p_user.u_comm)) != "x") && ((stringof(curthread->t_procp->p_parent->p_user.u_psargs)) != "x") && ((self->s_fs) != "sockfs") && ((probefunc == "fop_read" ? "read" : "write") != "read") && (this->f_latency >= 5) && (this->f_size >= 5) && (this->f_offset >= 5)/ {
  @rows[zonename, this->low, (uint64_t)(pid), (uint64_t)(ppid), (execname)] = count();
  @total[zonename] = count();
}
fbt:genunix:fop_read:return,
fbt:genunix:fop_write:return /(self->s_fs != 0) && (self->s_offset != 0) && (self->s_size != 0) && (self->s_t0 != 0)/ {
  self->s_fs = 0;
  self->s_offset = 0;
  self->s_size = 0;
  self->s_t0 = 0;
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printa("R\t%S\t%u\t%u\t%u\t%S\t%@d\n", @rows);
  printf("E\n");
  trunc(@total);
  trunc(@rows);
}

