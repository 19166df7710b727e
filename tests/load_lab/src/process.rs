use std::fs;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How a process is at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub rss_kib: u64,
    pub descriptors: usize,
    pub tasks: u64,
    pub connections: u64,
}

/// Looks at the broker: at what the kernel says, and at its own metrics.
pub async fn look(pid: u32, metrics: SocketAddr) -> io::Result<Look> {
    let text = fetch(metrics).await?;
    let gauge = |name: &str| -> u64 {
        let values = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    Ok(Look {
        rss_kib: rss.unwrap_or_default(),
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        tasks: gauge("ssh_broker_tasks"),
        connections: gauge("ssh_broker_connections"),
    })
}

pub fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which is in parentheses: utime and stime are the fields 14 and 15 of proc_pid_stat(5).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

async fn fetch(metrics: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(metrics).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
